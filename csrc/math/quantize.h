// Rounds a value in [0, 1] to one of 256 levels near the clean one.
#pragma once

#include "math/linf_step.h"

namespace deitsec {

// Nearest level, ties to even, within `levels` of the clean one; a NaN becomes the clean level.
DEITSEC_INLINE uint8_t quantize(float value, uint8_t clean, int32_t levels) {
  const float shift = 0x1.8p23f;  // adding it rounds to a whole number, held in the low bits
  const float scaled = clamp(value * 255.0f, -1.0f, 256.0f);
  const int32_t rounded = static_cast<int32_t>(to_bits(scaled + shift) - to_bits(shift));
  const int32_t base = clean;
  const int32_t nearest = value == value ? rounded : base;
  const int32_t low = base - levels > 0 ? base - levels : 0;
  const int32_t high = base + levels < 255 ? base + levels : 255;
  const int32_t raised = nearest > low ? nearest : low;
  return static_cast<uint8_t>(raised < high ? raised : high);
}

}  // namespace deitsec
