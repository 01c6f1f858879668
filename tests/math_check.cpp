// Holds csrc/math to account; prints what failed. Built and run by tests/test_ops_math.py.
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>

#include "math/exp.h"
#include "math/number.h"
#include "math/philox.h"

namespace {

using deitsec::BFloat16;
using deitsec::from_bits;
using deitsec::Half;

int failures = 0;

void expect(bool condition, const char* what, double at) {
  if (condition) return;
  if (++failures < 20) std::printf("%s at %.9g\n", what, at);
}

// Value of a half number from its definition.
double half_value(uint16_t bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1, top = (1 << exponent_bits) - 1;
  const int exponent = (bits >> fraction_bits) & top;
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const double sign = bits >> 15 ? -1.0 : 1.0;
  if (exponent == top) {
    return fraction != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp((1 << fraction_bits) + fraction, exponent - bias - fraction_bits);
}

// Every number of a half type, and every midpoint between neighbours and its neighbours in fp32.
template <class T>
void check_half(int exponent_bits, int fraction_bits) {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const auto word = static_cast<uint16_t>(bits);
    const double value = half_value(word, exponent_bits, fraction_bits);
    const float wide = deitsec::widen(T{word});
    if (std::isnan(value)) {
      expect(std::isnan(wide), "widen loses a NaN", bits);
      expect(std::isnan(deitsec::widen(deitsec::narrow<T>(wide))), "narrow loses a NaN", bits);
      continue;
    }
    expect(wide == value && std::signbit(wide) == std::signbit(value), "widen", bits);
    expect(deitsec::narrow<T>(wide).bits == word, "narrow of a half number", bits);
    if (std::isinf(value)) continue;
    const auto away = static_cast<uint16_t>(bits + 1);  // the next one away from 0
    double next = half_value(away, exponent_bits, fraction_bits);
    if (std::isinf(next)) {  // halfway to where the next one would be, it becomes infinite
      next = 2 * value - half_value(static_cast<uint16_t>(bits - 1), exponent_bits, fraction_bits);
    }
    const auto middle = static_cast<float>((value + next) / 2);
    const float out = middle > 0 ? INFINITY : -INFINITY;
    const uint16_t even = word % 2 == 0 ? word : away;
    expect(deitsec::narrow<T>(middle).bits == even, "narrow of a tie", middle);
    expect(deitsec::narrow<T>(std::nextafter(middle, 0.0f)).bits == word, "narrow down", middle);
    expect(deitsec::narrow<T>(std::nextafter(middle, out)).bits == away, "narrow up", middle);
  }
}

void check_exp() {
  double worst = 0.0;
  for (double at = -104.0; at <= 0.0; at += 1.37e-5) {
    const auto x = static_cast<float>(at);
    const double exact = std::exp(static_cast<double>(x));
    const auto rounded = static_cast<float>(exact);
    const double ulp = static_cast<double>(std::nextafter(rounded, INFINITY)) - rounded;
    worst = std::fmax(worst, std::fabs(deitsec::exp_nonpositive(x) - exact) / ulp);
  }
  expect(worst <= 1.5, "exp is off by more than 1.5 ulp:", worst);
  expect(deitsec::exp_nonpositive(0.0f) == 1.0f, "exp(0)", 0);
  expect(deitsec::exp_nonpositive(-INFINITY) == 0.0f, "exp(-inf)", 0);
  expect(std::isnan(deitsec::exp_nonpositive(NAN)), "exp(nan)", 0);
  std::printf("exp: %.3f ulp\n", worst);
}

void check_philox() {
  const auto check = [](deitsec::PhiloxWords counter, uint32_t key0, uint32_t key1,
                        deitsec::PhiloxWords expected) {
    const auto made = deitsec::philox(counter, key0, key1);
    expect(made.w0 == expected.w0 && made.w1 == expected.w1 && made.w2 == expected.w2 &&
               made.w3 == expected.w3,
           "philox", counter.w0);
  };
  // kat_vectors of the Random123 distribution, philox4x32 10
  check({0, 0, 0, 0}, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  const uint32_t ones = 0xffffffff;
  check({ones, ones, ones, ones}, ones, ones, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  check({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0,
        {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

}  // namespace

int main() {
  check_half<BFloat16>(8, 7);
  check_half<Half>(5, 10);
  check_exp();
  check_philox();
  return failures != 0;
}
