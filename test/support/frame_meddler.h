// SPDX-License-Identifier: Apache-2.0
// FrameMeddler: stands in a Proxy, knows the protocol, and lies.
//
//   FrameMeddler meddler(...);   what becomes of the frames that have come whole
//   Proxy proxy(server, std::ref(meddler));
//
// Frames are the meddler's to change, drop, repeat or reorder; what it makes of them goes
// on. The proxy's thread calls.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "libos/remote/wire.h"
#include "test/support/proxy.h"

namespace spiritos {

struct Frame {
  FrameHeader header;            // As it came.
  std::vector<std::byte> bytes;  // All of it.

  std::span<std::byte> payload() { return std::span(bytes).subspan(FrameHeader::kSize); }
  // Makes `header` true, with its checksum.
  void Encode() {
    FrameBytes encoded;
    EncodeFrame(header, &encoded);
    std::copy(encoded.begin(), encoded.end(), bytes.begin());
  }
};

class FrameMeddler {
 public:
  using OnFrames = std::function<void(Proxy::Stream stream, std::vector<Frame>* frames)>;
  explicit FrameMeddler(OnFrames on_frames) : on_frames_(std::move(on_frames)) {}

  void operator()(Proxy::Stream stream, std::vector<std::byte>* bytes) {
    std::vector<std::byte>& rest = rests_[stream.number];
    rest.insert(rest.end(), bytes->begin(), bytes->end());
    bytes->clear();
    std::vector<Frame> frames;
    size_t at = 0;
    for (Frame frame; Next(std::span(rest).subspan(at), &frame); frame = {}) {
      at += frame.bytes.size();
      frames.push_back(std::move(frame));
    }
    rest.erase(rest.begin(), rest.begin() + static_cast<ptrdiff_t>(at));
    if (!frames.empty()) on_frames_(stream, &frames);
    for (const Frame& frame : frames) {
      bytes->insert(bytes->end(), frame.bytes.begin(), frame.bytes.end());
    }
  }

 private:
  // False while the next frame has not come whole.
  static bool Next(std::span<const std::byte> from, Frame* frame) {
    if (from.size() < FrameHeader::kSize) return false;
    FrameBytes bytes;
    std::copy_n(from.begin(), bytes.size(), bytes.begin());
    SPIRITOS_CHECK(DecodeFrame(bytes, &frame->header) == FrameError::kNone, "not a frame");
    const size_t size = FrameHeader::kSize + frame->header.payload;
    if (from.size() < size) return false;
    frame->bytes.assign(from.begin(), from.begin() + static_cast<ptrdiff_t>(size));
    return true;
  }

  const OnFrames on_frames_;
  std::map<uint64_t, std::vector<std::byte>> rests_;
};

}  // namespace spiritos
