# SPDX-License-Identifier: Apache-2.0
"""A client of redis, in a few lines."""

import socket


class Client:
    """As much of the protocol (RESP2) as this needs; requests are pipelined."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.file = self.socket.makefile("rb")

    def close(self):
        self.file.close()
        self.socket.close()

    def _reply(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        raise AssertionError(f"redis answers {line!r}")

    def batch(self, commands):
        out = bytearray()
        for command in commands:
            out += b"*%d\r\n" % len(command)
            for word in command:
                out += b"$%d\r\n%s\r\n" % (len(word), word)
        self.socket.sendall(out)
        return [self._reply() for _ in commands]

    def __call__(self, *command):
        return self.batch([[word if isinstance(word, bytes) else str(word).encode() for word in command]])[0]

    def info(self, field):
        for line in self("INFO").splitlines():
            if line.startswith(field.encode() + b":"):
                return line.split(b":", 1)[1].decode()
        raise AssertionError(f"no {field} in INFO")
