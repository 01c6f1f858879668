// The signed step of the L-infinity attacks, projected on the eps-ball and on [0, 1].
#pragma once

#include <cstdint>

#include "math/number.h"

namespace deitsec {

// An ordered comparison keeps a NaN, as torch.clamp does.
DEITSEC_INLINE float clamp(float value, float low, float high) {
  const float raised = low > value ? low : value;
  return high < raised ? high : raised;
}

// uint8 levels stand for level / 255; the division is PyTorch's, a product would round otherwise.
DEITSEC_INLINE float clean_value(uint8_t level) { return widen(level) / 255.0f; }

template <class T>
DEITSEC_INLINE float clean_value(T value) {
  return widen(value);
}

// The order of operations is the reference's, so fp32 results are equal to the last bit. A gradient
// of 0 or NaN moves nothing.
DEITSEC_INLINE float linf_step(float x, float grad, float x0, float alpha, float eps) {
  const float step = grad > 0.0f ? alpha : (grad < 0.0f ? -alpha : 0.0f);
  const float delta = clamp((x + step) - x0, -eps, eps);
  return clamp(x0 + delta, 0.0f, 1.0f);
}

}  // namespace deitsec
