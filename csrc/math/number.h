// The element types of the kernels, and their conversion to fp32 and back. All arithmetic is in
// fp32; a result is rounded once, to nearest, ties to even, and a NaN stays a NaN. On the CPU they
// are integer operations without branches, so that loops over them vectorise.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include "math/host_device.h"

namespace deitsec {

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

DEITSEC_INLINE uint32_t to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

DEITSEC_INLINE float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

DEITSEC_INLINE float widen(float value) { return value; }

DEITSEC_INLINE float widen(uint8_t value) { return static_cast<float>(value); }

DEITSEC_INLINE float widen(BFloat16 value) {
  return from_bits(static_cast<uint32_t>(value.bits) << 16);
}

// fp16 has 5 exponent bits to fp32's 8: normal numbers move by 112 exponents, subnormal ones are
// placed in the mantissa of 0.5 and 0.5 is taken off again.
DEITSEC_INLINE float widen(Half value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  const uint32_t word = static_cast<uint32_t>(value.bits) << 16;
  const uint32_t doubled = word + word;
  const float normal = from_bits((doubled >> 4) + (0xE0u << 23)) * 0x1p-112f;
  const float subnormal = from_bits((doubled >> 17) | (126u << 23)) - 0.5f;
  const uint32_t magnitude = doubled < (1u << 27) ? to_bits(subnormal) : to_bits(normal);
  return from_bits((word & 0x80000000u) | magnitude);
#endif
}

template <class T>
DEITSEC_INLINE T narrow(float value);

template <>
DEITSEC_INLINE float narrow<float>(float value) {
  return value;
}

template <>
DEITSEC_INLINE BFloat16 narrow<BFloat16>(float value) {
#if defined(__CUDA_ARCH__)
  return BFloat16{__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
  const uint32_t bits = to_bits(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return BFloat16{static_cast<uint16_t>((bits << 1) > 0xFF000000u ? 0x7FC0u : rounded)};
#endif
}

// The scaling makes what is too large infinite; adding the power of two 2^13 above the value's own
// exponent lets the fp32 adder do the rounding, subnormal results included.
template <>
DEITSEC_INLINE Half narrow<Half>(float value) {
#if defined(__CUDA_ARCH__)
  return Half{__half_as_ushort(__float2half_rn(value))};
#else
  const uint32_t word = to_bits(value);
  const uint32_t doubled = word + word;
  const float scaled = (from_bits(word & 0x7FFFFFFFu) * 0x1p+112f) * 0x1p-110f;
  const uint32_t exponent = doubled & 0xFF000000u;
  const uint32_t bias = exponent < 0x71000000u ? 0x71000000u : exponent;
  const uint32_t sum = to_bits(from_bits((bias >> 1) + 0x07800000u) + scaled);
  const uint32_t magnitude = ((sum >> 13) & 0x7C00u) + (sum & 0x0FFFu);
  const uint32_t sign = (word & 0x80000000u) >> 16;
  return Half{static_cast<uint16_t>(sign | (doubled > 0xFF000000u ? 0x7E00u : magnitude))};
#endif
}

}  // namespace deitsec
