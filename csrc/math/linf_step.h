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

// What a step needs to know. The box is [0, 1]; as values that the compiler cannot see, its bounds
// cost one vector instruction each, as constants (gcc 12) six.
struct LinfStep {
  float alpha;
  float eps;
  float low = 0.0f;
  float high = 1.0f;
};

// The nearest point of the ball around x0 and of the box.
DEITSEC_INLINE float linf_project(float value, float x0, const LinfStep& step) {
  return clamp(x0 + clamp(value - x0, -step.eps, step.eps), step.low, step.high);
}

// The order of operations is the reference's, so fp32 results are equal to the last bit. A gradient
// of 0 or NaN moves nothing.
DEITSEC_INLINE float linf_step(float x, float grad, float x0, const LinfStep& step) {
  const float move = grad > 0.0f ? step.alpha : (grad < 0.0f ? -step.alpha : 0.0f);
  return linf_project(x + move, x0, step);
}

}  // namespace deitsec
