// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
#pragma once

#include <cstdint>

#include "math/host_device.h"

namespace deitsec {

struct PhiloxWords {
  uint32_t w0, w1, w2, w3;
};

DEITSEC_INLINE PhiloxWords philox(PhiloxWords counter, uint32_t key0, uint32_t key1) {
  uint32_t c0 = counter.w0, c1 = counter.w1, c2 = counter.w2, c3 = counter.w3;
#pragma GCC unroll 10
  for (uint32_t round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(c0) * 0xD2511F53u;
    const uint64_t product1 = static_cast<uint64_t>(c2) * 0xCD9E8D57u;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ (key0 + round * 0x9E3779B9u);
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ (key1 + round * 0xBB67AE85u);
    c3 = static_cast<uint32_t>(product0);
  }
  return PhiloxWords{c0, c1, c2, c3};
}

// The top 24 bits as a number in [-1, 1); exact in fp32.
DEITSEC_INLINE float symmetric_uniform(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-23f - 1.0f;
}

}  // namespace deitsec
