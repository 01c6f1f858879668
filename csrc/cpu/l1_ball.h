// The projection on the intersection of an L1 ball and the box of images, shared by l1_projection
// and l1_step. See deitsec/ops/l1_projection.py for the meaning.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cpu/clones.h"
#include "math/number.h"

namespace deitsec {

// What decides lambda: the entries of a row that are not 0, |v| and how far each may go.
struct Perturbation {
  std::vector<float> sizes;
  std::vector<float> rooms;
  int64_t count = 0;

  explicit Perturbation(int64_t elements) : sizes(elements), rooms(elements) {}

  void clear() { count = 0; }

  // Without a branch; an entry that is 0 is written over by the next one.
  DEITSEC_INLINE void add(float delta, float clean) {
    sizes[count] = std::fabs(delta);
    rooms[count] = delta > 0.0f ? 1.0f - clean : clean;
    count += delta != 0.0f;
  }
};

// The L1 norm of the row shrunk by lambda, and how many entries a larger lambda would shrink.
struct Shrunk {
  double norm;
  int64_t active;
};

DEITSEC_CLONES inline Shrunk shrunk(const float* sizes, const float* rooms, int64_t count,
                                    double lambda) {
  double norm = 0.0;
  int64_t active = 0;
#pragma omp simd reduction(+ : norm, active)
  for (int64_t i = 0; i < count; ++i) {
    const double left = sizes[i] - lambda;
    const double room = rooms[i];
    const double kept = left > 0.0 ? left : 0.0;
    norm += kept < room ? kept : room;
    active += (left > 0.0) & (left <= room);
  }
  return {norm, active};
}

// The smallest lambda >= 0 that leaves a norm of at most eps. The norm is continuous, piecewise
// linear and falls with lambda: Newton's method within a bracket, and a bisection each fourth time,
// since a piece may be flat or the next one steeper.
inline double find_lambda(const Perturbation& v, double eps) {
  const auto at = [&](double lambda) {
    return shrunk(v.sizes.data(), v.rooms.data(), v.count, lambda);
  };
  constexpr double kClose = 1e-10;
  double lambda = 0.0;
  Shrunk now = at(lambda);
  if (!(now.norm > eps)) return 0.0;  // a NaN among them is left to itself
  double low = 0.0, high = *std::max_element(v.sizes.begin(), v.sizes.begin() + v.count);
  const auto newton = [&] {
    return now.active > 0 ? lambda + (now.norm - eps) / static_cast<double>(now.active) : -1.0;
  };
  for (int round = 1; std::fabs(now.norm - eps) > kClose * eps; ++round) {
    double next = newton();
    if (round % 4 == 0 || !(next > low && next < high)) next = low + (high - low) / 2;
    if (!(next > low && next < high)) break;  // no number lies between
    lambda = next;
    now = at(lambda);
    (now.norm > eps ? low : high) = lambda;
  }
  const double last = newton();
  return last >= low && last <= high ? last : lambda;
}

// One entry of the projected image.
DEITSEC_INLINE float project_entry(float delta, float clean, float lambda) {
  const float room = delta > 0.0f ? 1.0f - clean : clean;
  const float left = std::fabs(delta) - lambda;
  const float positive = left < 0.0f ? 0.0f : left;
  const float kept = room < positive ? room : positive;
  return clean + (delta < 0.0f ? -kept : kept);
}

}  // namespace deitsec
