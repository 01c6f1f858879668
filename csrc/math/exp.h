// exp in fp32 without branches or library calls: loops over it vectorise without -ffast-math.
#pragma once

#include "math/number.h"

namespace deitsec {

// exp(x) for x <= 0, within 1.5 units in the last place, subnormal results included; a NaN stays
// one. exp(x) = 2^n * exp(r) with n = round(x / ln 2), |r| <= ln(2) / 2, and a polynomial of degree
// 6 whose relative error is below 4e-9.
DEITSEC_INLINE float exp_nonpositive(float x) {
  const float bounded = x < -105.0f ? -105.0f : x;  // exp(-105) rounds to 0
  // adding this leaves n + 254 in the low bits: twice the exponent bias, one for each factor below
  const float shift = 0x1.8p23f + 254.0f;
  const float shifted = bounded * 1.44269504088896341f + shift;
  const float whole = shifted - shift;
  const float rest = (bounded - whole * 0.693359375f) - whole * -2.12194440e-4f;
  float sum = 0x1.6a242cp-10f;
  sum = sum * rest + 0x1.1239e4p-7f;
  sum = sum * rest + 0x1.5558f2p-5f;
  sum = sum * rest + 0x1.555492p-3f;
  sum = sum * rest + 0x1.fffffcp-2f;
  const float mantissa = (sum * (rest * rest) + rest) + 1.0f;
  // 2^n in two factors: 2^-150 is no fp32 number, its root is
  const uint32_t bits = to_bits(shifted);
  const uint32_t half = bits >> 1;
  return (mantissa * from_bits(half << 23)) * from_bits((bits - half) << 23);
}

}  // namespace deitsec
