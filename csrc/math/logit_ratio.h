// A difference of two logits over the spread of the largest: the difference of logits ratio.
#pragma once

#include <cstdint>
#include <limits>

#include "math/host_device.h"

namespace deitsec {

constexpr float kRatioEpsilon = 1e-12f;

struct Logit {
  int64_t index;
  float value;
};

// The loss and its gradient's entries. An index may stand in several: what counts is the first of
// `first`, `low`, `down`, `up` that has it.
template <int kLow>
struct LogitRatio {
  float loss, up, down, first;
  float low[kLow];
};

// Where a logit stands in numerator and denominator, 1 less a number near 1 is written as a
// difference of logits: it would cancel otherwise. The order of operations is the reference's.
template <int kLow>
DEITSEC_INLINE LogitRatio<kLow> logit_ratio(Logit first, const Logit* low, Logit up, Logit down) {
  constexpr float kCount = kLow;
  LogitRatio<kLow> ratio;
  float drops = 0.0f, above_up = 0.0f, above_down = 0.0f;
  for (int j = 0; j < kLow; ++j) {
    drops += first.value - low[j].value;
    above_up += up.value - low[j].value;
    above_down += down.value - low[j].value;
  }
  const float spread = drops / kCount + kRatioEpsilon;
  ratio.loss = (up.value - down.value) / spread;
  // fewer logits above -inf than the ratio needs: what follows would be inf / inf
  if (spread == std::numeric_limits<float>::infinity()) return {ratio.loss};
  ratio.up = 1.0f / spread;
  ratio.down = -ratio.up;
  const float with_down = -(above_up / kCount + kRatioEpsilon) / spread;
  const float with_up = (above_down / kCount + kRatioEpsilon) / spread;
  const bool at_down = first.index == down.index, at_up = first.index == up.index;
  ratio.first = (at_down ? with_down : at_up ? with_up : -ratio.loss) / spread;
  for (int j = 0; j < kLow; ++j) {
    float others = 0.0f;
    for (int k = 0; k < kLow; ++k) others += k == j ? 0.0f : first.value - low[k].value;
    float entry = ratio.loss / kCount;
    if (low[j].index == down.index) {
      entry = -((others + (first.value - up.value)) / kCount + kRatioEpsilon) / spread;
    } else if (low[j].index == up.index) {
      entry = ((others + (first.value - down.value)) / kCount + kRatioEpsilon) / spread;
    }
    ratio.low[j] = entry / spread;
  }
  return ratio;
}

}  // namespace deitsec
