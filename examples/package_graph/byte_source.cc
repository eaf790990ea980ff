// SPDX-License-Identifier: Apache-2.0
// One source for plain and gzip files, which zlib tells apart itself, and one loop
// over a codec for each stream format.
#include "examples/package_graph/byte_source.h"

#include <lz4frame.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

namespace package_graph {
namespace {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

absl::Status Broken(const std::string& path, const std::string& why) {
  return absl::DataLossError("cannot read " + path + ": " + why);
}

// Plain files too: zlib passes through what has no gzip header.
class GzipSource final : public ByteSource {
 public:
  GzipSource(std::string path, gzFile file) : path_(std::move(path)), file_(file) {}
  ~GzipSource() override { gzclose(file_); }

  absl::StatusOr<size_t> Read(std::span<char> out) override {
    int n = gzread(file_, out.data(), static_cast<unsigned>(out.size()));
    int error = Z_OK;
    const char* message = gzerror(file_, &error);
    if (n < 0 || (n == 0 && error != Z_OK)) return absl::DataLossError(message);  // Has the path.
    return static_cast<size_t>(n);
  }

 private:
  std::string path_;
  gzFile file_;
};

// The loop that the three stream decoders share. A `Codec` has
//   absl::StatusOr<bool> Decode(span<const char>& in, span<char>& out, bool last)
// which takes from the front of `in`, gives to the front of `out` and says
// whether a frame is open, that is, whether the file may not end here.
template <typename Codec>
class StreamSource final : public ByteSource {
 public:
  StreamSource(std::string path, File file) : path_(std::move(path)), file_(std::move(file)) {}

  absl::StatusOr<size_t> Read(std::span<char> out) override {
    std::span<char> room = out;
    while (room.size() == out.size()) {
      if (input_.empty() && !last_) {
        size_t n = std::fread(buffer_.data(), 1, buffer_.size(), file_.get());
        if (std::ferror(file_.get()) != 0) return Broken(path_, std::strerror(errno));
        input_ = {buffer_.data(), n};
        last_ = n == 0;
      }
      size_t had = input_.size();
      absl::StatusOr<bool> open = codec_.Decode(input_, room, last_);
      if (!open.ok()) return Broken(path_, std::string(open.status().message()));
      if (last_ && room.size() == out.size()) {
        if (*open) return Broken(path_, "the file is cut off");
        return size_t{0};
      }
      if (!last_ && had != 0 && had == input_.size() && room.size() == out.size()) {
        return Broken(path_, "the decoder makes no progress");
      }
    }
    return out.size() - room.size();
  }

 private:
  std::string path_;
  File file_;
  Codec codec_;
  std::array<char, 64 << 10> buffer_;
  std::span<const char> input_;
  bool last_ = false;
};

class XzCodec {
 public:
  XzCodec() { ready_ = lzma_stream_decoder(&stream_, UINT64_MAX, LZMA_CONCATENATED); }
  ~XzCodec() { lzma_end(&stream_); }
  XzCodec(const XzCodec&) = delete;
  XzCodec& operator=(const XzCodec&) = delete;

  absl::StatusOr<bool> Decode(std::span<const char>& in, std::span<char>& out, bool last) {
    if (ready_ != LZMA_OK) return absl::InternalError("no memory for the xz decoder");
    if (ended_) return false;
    stream_.next_in = reinterpret_cast<const uint8_t*>(in.data());
    stream_.avail_in = in.size();
    stream_.next_out = reinterpret_cast<uint8_t*>(out.data());
    stream_.avail_out = out.size();
    lzma_ret result = lzma_code(&stream_, last ? LZMA_FINISH : LZMA_RUN);
    in = in.last(stream_.avail_in);
    out = out.last(stream_.avail_out);
    ended_ = result == LZMA_STREAM_END;
    if (result != LZMA_OK && !ended_ && result != LZMA_BUF_ERROR) {
      return absl::DataLossError("not valid xz");
    }
    return !ended_;
  }

 private:
  lzma_stream stream_ = LZMA_STREAM_INIT;
  lzma_ret ready_;
  bool ended_ = false;
};

class Lz4Codec {
 public:
  Lz4Codec() { ready_ = LZ4F_createDecompressionContext(&context_, LZ4F_VERSION); }
  ~Lz4Codec() { LZ4F_freeDecompressionContext(context_); }
  Lz4Codec(const Lz4Codec&) = delete;
  Lz4Codec& operator=(const Lz4Codec&) = delete;

  absl::StatusOr<bool> Decode(std::span<const char>& in, std::span<char>& out, bool) {
    if (LZ4F_isError(ready_) != 0) return absl::InternalError("no memory for the lz4 decoder");
    size_t given = out.size();
    size_t taken = in.size();
    if (taken == 0 && !open_) return false;
    size_t hint = LZ4F_decompress(context_, out.data(), &given, in.data(), &taken, nullptr);
    if (LZ4F_isError(hint) != 0) return absl::DataLossError(LZ4F_getErrorName(hint));
    in = in.subspan(taken);
    out = out.subspan(given);
    open_ = hint != 0;
    return open_;
  }

 private:
  LZ4F_dctx* context_ = nullptr;
  size_t ready_;
  bool open_ = false;
};

class ZstdCodec {
 public:
  ZstdCodec() : stream_(ZSTD_createDStream()) {}
  ~ZstdCodec() { ZSTD_freeDStream(stream_); }
  ZstdCodec(const ZstdCodec&) = delete;
  ZstdCodec& operator=(const ZstdCodec&) = delete;

  absl::StatusOr<bool> Decode(std::span<const char>& in, std::span<char>& out, bool) {
    if (stream_ == nullptr) return absl::InternalError("no memory for the zstd decoder");
    if (in.empty() && !open_) return false;
    ZSTD_inBuffer input{in.data(), in.size(), 0};
    ZSTD_outBuffer output{out.data(), out.size(), 0};
    size_t hint = ZSTD_decompressStream(stream_, &output, &input);
    if (ZSTD_isError(hint) != 0) return absl::DataLossError(ZSTD_getErrorName(hint));
    in = in.subspan(input.pos);
    out = out.subspan(output.pos);
    open_ = hint != 0;
    return open_;
  }

 private:
  ZSTD_DStream* stream_;
  bool open_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ByteSource>> ByteSource::Open(const std::filesystem::path& path) {
  std::string name = path.string();
  std::string ending = path.extension().string();
  if (ending != ".xz" && ending != ".lz4" && ending != ".zst") {
    gzFile file = gzopen(name.c_str(), "rb");
    if (file == nullptr) return Broken(name, std::strerror(errno));
    return std::make_unique<GzipSource>(std::move(name), file);
  }
  File file(std::fopen(name.c_str(), "rb"));
  if (file == nullptr) return Broken(name, std::strerror(errno));
  if (ending == ".xz") {
    return std::make_unique<StreamSource<XzCodec>>(std::move(name), std::move(file));
  }
  if (ending == ".lz4") {
    return std::make_unique<StreamSource<Lz4Codec>>(std::move(name), std::move(file));
  }
  return std::make_unique<StreamSource<ZstdCodec>>(std::move(name), std::move(file));
}

}  // namespace package_graph
