// exp in fp32 within 1.5 units in the last place, subnormal results included. Plain products and
// sums without branches or library calls: loops over it vectorise without -ffast-math.
#pragma once

#include "math/number.h"

namespace deitsec {

// exp(x) = 2^n * exp(r) with n = round(x / ln 2) and |r| <= ln(2) / 2; the polynomial is that of
// Cephes' expf. A NaN stays one.
DEITSEC_INLINE float exp_approx(float x) {
  const float low = x < -105.0f ? -105.0f : x;  // exp(-105) rounds to 0
  const float bounded = low > 89.0f ? 89.0f : low;  // exp(89) is infinite
  const float shift = 0x1.8p23f;  // adding it rounds to a whole number, held in the low bits
  const float shifted = bounded * 1.44269504088896341f + shift;
  const float whole = shifted - shift;
  const float rest = (bounded - whole * 0.693359375f) - whole * -2.12194440e-4f;
  float sum = 1.9875691500e-4f;
  sum = sum * rest + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  const float mantissa = (sum * (rest * rest) + rest) + 1.0f;
  // two factors: 2^-150 and 2^128 are no fp32 numbers, their roots are
  const int32_t exponent = static_cast<int32_t>(to_bits(shifted) - to_bits(shift));
  const int32_t half = exponent >> 1;
  const float first = from_bits(static_cast<uint32_t>(half + 127) << 23);
  const float second = from_bits(static_cast<uint32_t>(exponent - half + 127) << 23);
  return (mantissa * first) * second;
}

}  // namespace deitsec
