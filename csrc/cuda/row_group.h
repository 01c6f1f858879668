// Threads that work on one row together: part of a warp, a warp, or a block.
#pragma once

#include <cstdint>

#include "cuda/launch.h"

namespace deitsec {

constexpr int kWarp = 32;

template <int kThreads>
struct RowGroup {
  static_assert(kThreads <= kWarp || kThreads % kWarp == 0);
  static constexpr int kWarps = kThreads <= kWarp ? 1 : kThreads / kWarp;
  static constexpr int kLanes = kThreads < kWarp ? kThreads : kWarp;

  // Combines the threads' values in an order that does not depend on timing; all get the result.
  // Value is a struct of 32-bit words, `shared` has room for kWarps of them.
  template <class Value, class Combine>
  __device__ static Value reduce(Value value, Value* shared, const Combine& combine) {
    const unsigned int lane = threadIdx.x % kWarp;
    const unsigned int group = 0xFFFFFFFFu >> (kWarp - kLanes);
    const unsigned int mask = group << (lane / kLanes * kLanes);
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
      value = combine(value, exchange(value, mask, distance));
    }
    if constexpr (kWarps > 1) {
      if (lane == 0) shared[threadIdx.x / kWarp] = value;
      __syncthreads();
      value = shared[0];
      for (int warp = 1; warp < kWarps; ++warp) value = combine(value, shared[warp]);
      __syncthreads();
    }
    return value;
  }

  // Calls `visit.template operator()<count>(first)` for runs of elements that cover [0, size):
  // packs of 128 bits where all the rows are aligned alike, single elements before, after and
  // otherwise.
  template <class T, class Visit>
  __device__ static void for_row(const T* row, bool alike, int64_t size, const Visit& visit) {
    constexpr int kCount = kPack<T>;
    const int64_t thread = threadIdx.x % kThreads;
    const auto beyond = reinterpret_cast<uintptr_t>(row) % kPackBytes / sizeof(T);
    int64_t head = (kCount - static_cast<int64_t>(beyond)) % kCount;
    if (!alike || head > size) head = size;
    const int64_t packs = (size - head) / kCount;
    for (int64_t i = thread; i < head; i += kThreads) visit.template operator()<1>(i);
    for (int64_t pack = thread; pack < packs; pack += kThreads) {
      visit.template operator()<kCount>(head + pack * kCount);
    }
    for (int64_t i = head + packs * kCount + thread; i < size; i += kThreads) {
      visit.template operator()<1>(i);
    }
  }

 private:
  template <class Value>
  __device__ static Value exchange(const Value& value, unsigned int mask, int distance) {
    constexpr int kWords = sizeof(Value) / sizeof(uint32_t);
    static_assert(sizeof(Value) % sizeof(uint32_t) == 0);
    uint32_t words[kWords];
    memcpy(words, &value, sizeof value);
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = __shfl_xor_sync(mask, words[i], distance);
    Value other;
    memcpy(&other, words, sizeof other);
    return other;
  }
};

// Loads `kCount` consecutive elements as fp32.
template <int kCount, class T>
__device__ void load(const T* from, float (&values)[kCount]) {
  const auto pack = *reinterpret_cast<const Pack<T, kCount>*>(from);
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = widen(pack.values[i]);
}

// Rounds `kCount` values and stores them.
template <int kCount, class T>
__device__ void store(T* to, const float (&values)[kCount]) {
  Pack<T, kCount> pack;
#pragma unroll
  for (int i = 0; i < kCount; ++i) pack.values[i] = narrow<T>(values[i]);
  if constexpr (sizeof pack == kPackBytes) {
    uint4 word;
    memcpy(&word, &pack, sizeof word);
    __stcg(reinterpret_cast<uint4*>(to), word);  // nvcc 13 splits a plain assignment in four
  } else {
    *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
  }
}

}  // namespace deitsec
