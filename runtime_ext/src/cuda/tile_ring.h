// A warp's way through the weight: tiles of planes and scales on their way to shared memory while others are in use.
//
// The warps of a thread block share the input tiles of a row tile: warp w has w, w + 8, ... and then those of the
// block's next row tile, without a pause. Each warp has its own ring, filled by asynchronous copies, so that no
// registers are held for what is under way, and no other warp is waited for.
#pragma once

#include <cstdint>

#include "cuda/packed.h"
#include "cuda/simt/simt.h"

namespace dualbinary::cuda {

inline constexpr int kDecodeWarps = 8;
// All but one are under way: at two planes 1.7 KB of a warp, 40 KB of a multiprocessor.
template <int P>
inline constexpr int kRingSlots = P <= 2 ? 4 : 3;
inline constexpr int kCopyBytes = 16;
inline constexpr int kPlaneBytes = simt::kLanes * 2 * 4;  // of a tile

// Groups that a tile may touch.
DUALBINARY_HOST_DEVICE constexpr int groups_of_tile(int group_parts) {
  if (group_parts % kParts == 0) return 1;
  return group_parts == 1 ? kParts : 2;
}

DUALBINARY_HOST_DEVICE constexpr int slot_bytes(const PackedWeight& w) {
  return w.P * kPlaneBytes + groups_of_tile(w.group_parts) * w.C * line_bytes(w.scale_type);
}

// The words of a lane of one tile.
template <int P>
struct TileWords {
  std::uint32_t w[2 * P];  // of plane p, row r: w[2p], row r + 8: w[2p + 1]
};

// A tile in its slot.
template <int P>
struct TileView {
  TileWords<P> words;
  simt::SharedArray lines;  // of the scales, those of `group` first
  int group;                // of the tile's first part
  int first_part;           // of the tile, counted over the row
  int row_tile;

  // Calls body(first part, end part, lines of scales) for each group, with its parts of this tile, 0 to 4.
  template <class Body>
  DUALBINARY_DEVICE void for_groups(const PackedWeight& w, const Body& body) const {
    if (w.group_parts % kParts == 0) {  // then every tile lies in one, and no bits are masked
      body(0, kParts, lines);
      return;
    }
    int begin = 0;
    int current = group;
    simt::SharedArray at = lines;
    DUALBINARY_NO_UNROLL
    while (true) {
      const int of_row = end_of_group(w, current) - first_part;
      const int end = of_row < kParts ? of_row : kParts;
      body(begin, end, at);
      if (end == kParts) break;
      begin = end;
      ++current;
      at = at.after(w.C * line_bytes(w.scale_type));
    }
  }
};

template <int P>
class TileRing {
 public:
  // `memory` has kRingSlots<P> slots, aligned to 16 bytes.
  DUALBINARY_DEVICE TileRing(const PackedWeight& weight, std::uint8_t* memory, int warp, int lane)
      : memory_(simt::shared_address(memory)), bytes_(slot_bytes(weight)), warp_(warp), lane_(lane) {
    group_bytes_ = weight.C * line_bytes(weight.scale_type);
    line_chunks_ = groups_of_tile(weight.group_parts) * group_bytes_ / kCopyBytes;
    enter_row_tile(weight, warp < weight.input_tiles ? simt::block_x() : weight.row_tiles);  // or nothing for this warp
    DUALBINARY_UNROLL
    for (int i = 0; i < kRingSlots<P> - 1; ++i) start_next(weight);
  }

  // The next tile of this warp; the slot of the one before is given to a new copy. All lanes call it together.
  DUALBINARY_DEVICE TileView<P> next(const PackedWeight& weight, int row_tile, int tile) {
    simt::wait_copies<kRingSlots<P> - 2>();
    simt::sync_warp();  // the other lanes' copies are there, and the tile before is no longer read
    start_next(weight);
    const simt::SharedAddress slot = memory_ + taken_;
    taken_ = following(taken_);
    TileView<P> view;
    read_words(slot, view.words);
    view.lines = {slot + P * kPlaneBytes};
    view.group = group_of_input(weight, kParts * tile);
    view.first_part = kParts * tile;
    view.row_tile = row_tile;
    return view;
  }

 private:
  // Chunks of 16 bytes have their own place: for an even P all lanes' first ones, then all second ones, so that the
  // reads of eight lanes are 128 bytes in a row.
  static constexpr int kLaneChunks = P % 2 == 0 ? P / 2 : 1;

  DUALBINARY_DEVICE int following(int slot) const { return slot == (kRingSlots<P> - 1) * bytes_ ? 0 : slot + bytes_; }

  // Addresses of this lane's first chunks of the row tile's first tile for this warp.
  DUALBINARY_DEVICE void enter_row_tile(const PackedWeight& weight, int row_tile) {
    row_tile_ = row_tile;
    tile_ = warp_;
    const std::int64_t index = static_cast<std::int64_t>(row_tile) * weight.input_tiles + warp_;
    planes_ = reinterpret_cast<const std::uint8_t*>(weight.planes) + index * (P * kPlaneBytes) + lane_ * kCopyBytes;
    lines_ = static_cast<const std::uint8_t*>(weight.scales) + line_offset(weight, row_tile, 0) + lane_ * kCopyBytes;
  }

  DUALBINARY_DEVICE void start_next(const PackedWeight& weight) {
    start(weight, memory_ + started_, row_tile_ < weight.row_tiles);
    planes_ += kDecodeWarps * P * kPlaneBytes;
    tile_ += kDecodeWarps;
    if (tile_ >= weight.input_tiles) enter_row_tile(weight, row_tile_ + simt::blocks_x());
    simt::commit_copies();  // an empty group too: the waits count groups
    started_ = following(started_);
  }

  DUALBINARY_DEVICE void start(const PackedWeight& weight, simt::SharedAddress slot, bool wanted) const {
    DUALBINARY_UNROLL
    for (int i = 0; i < (P + 1) / 2; ++i) {
      const int chunk = i * simt::kLanes + lane_;
      const int place = P % 2 == 0 ? chunk % kLaneChunks * simt::kLanes + chunk / kLaneChunks : chunk;
      const bool inside = P % 2 == 0 || chunk < P * kPlaneBytes / kCopyBytes;
      simt::copy_async_if(slot + place * kCopyBytes, planes_ + i * simt::kLanes * kCopyBytes, wanted && inside);
    }
    // As many groups as a tile may touch; past the end of a row they are not used.
    const auto group = static_cast<std::uint32_t>(group_of_input(weight, kParts * tile_));
    const std::uint8_t* lines = lines_ + std::uint64_t{group} * static_cast<std::uint32_t>(group_bytes_);
    const simt::SharedAddress to = slot + P * kPlaneBytes + lane_ * kCopyBytes;
    simt::copy_async_if(to, lines, wanted && lane_ < line_chunks_);
    constexpr int kStride = simt::kLanes * kCopyBytes;
    DUALBINARY_NO_UNROLL
    for (int i = 1; i * simt::kLanes < line_chunks_; ++i) {
      const bool inside = i * simt::kLanes + lane_ < line_chunks_;
      simt::copy_async_if(to + i * kStride, lines + i * kStride, wanted && inside);
    }
  }

  DUALBINARY_DEVICE void read_words(simt::SharedAddress slot, TileWords<P>& words) const {
    if constexpr (P % 2 == 0) {
      DUALBINARY_UNROLL
      for (int i = 0; i < kLaneChunks; ++i) {
        const simt::Words4 v = simt::load_words4(slot + (i * simt::kLanes + lane_) * kCopyBytes);
        DUALBINARY_UNROLL
        for (int j = 0; j < 4; ++j) words.w[4 * i + j] = v.w[j];
      }
    } else {
      DUALBINARY_UNROLL
      for (int i = 0; i < P; ++i) {
        const simt::Words2 v = simt::load_words2(slot + (lane_ * P + i) * 8);
        words.w[2 * i] = v.w[0];
        words.w[2 * i + 1] = v.w[1];
      }
    }
  }

  simt::SharedAddress memory_;
  int bytes_;
  int warp_;
  int lane_;
  int group_bytes_;   // the lines of a group
  int line_chunks_;   // of a tile
  int row_tile_ = 0;  // of the next tile to be copied
  int tile_ = 0;
  const std::uint8_t* planes_ = nullptr;
  const std::uint8_t* lines_ = nullptr;
  int started_ = 0;  // offsets of slots
  int taken_ = 0;
};

}  // namespace dualbinary::cuda
