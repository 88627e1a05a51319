// Short vectors for the CPU, in the vector extension that GCC and Clang share: memory, transposition, exp and log.
#pragma once

#include <cstring>
#include <utility>

#ifdef __AVX512F__
constexpr int BYTES = 64;
#else
constexpr int BYTES = 32;
#endif

template <class T>
struct Vector;

template <>
struct Vector<float> {
    typedef float type __attribute__((vector_size(BYTES)));
    typedef int bits __attribute__((vector_size(BYTES)));
    static constexpr int mantissa = 23, bias = 127;
    static constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves whole numbers
    static constexpr float log2_high = 0.693359375f, log2_low = -2.12194440e-4f;
    static constexpr float smallest = -87.0f, largest = 88.0f;
    static constexpr int exp_terms = 7, log_terms = 5;
};

template <>
struct Vector<double> {
    typedef double type __attribute__((vector_size(BYTES)));
    typedef long long bits __attribute__((vector_size(BYTES)));
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr double log2_high = 6.93147180369123816490e-01, log2_low = 1.90821492927058770002e-10;
    static constexpr double smallest = -708.0, largest = 709.0;
    static constexpr int exp_terms = 13, log_terms = 11;
};

template <class T>
struct ByBits;
template <>
struct ByBits<Vector<float>::type> {
    typedef float number;
};
template <>
struct ByBits<Vector<double>::type> {
    typedef double number;
};

// Whether a < b in one of the places.
template <class V>
inline bool any_less(V a, V b) {
    const auto less = a < b;
    unsigned long long parts[sizeof(V) / 8], any = 0;
    std::memcpy(parts, &less, sizeof(V));
    for (unsigned long long part : parts) any |= part;
    return any;
}

// `count` numbers, or as many as a vector has; the rest is 0.
template <class V, class T>
inline V load(const T* from, long long count) {
    constexpr int W = sizeof(V) / sizeof(T);
    V values = V{};
    if (count >= W)
        std::memcpy(&values, from, sizeof(V));
    else if (count > 0)
        std::memcpy(&values, from, count * sizeof(T));
    return values;
}

template <class V, class T>
inline void store(T* to, V values, long long count) {
    constexpr int W = sizeof(V) / sizeof(T);
    if (count >= W)
        std::memcpy(to, &values, sizeof(V));
    else
        std::memcpy(to, &values, count * sizeof(T));
}

// a and b in turn: of their first halves, or of their second ones.
template <bool SECOND, class V, std::size_t... I>
inline V interleaved(V a, V b, std::index_sequence<I...>) {
    constexpr int W = sizeof...(I), from = SECOND ? W / 2 : 0;
#ifdef __clang__
    return __builtin_shufflevector(a, b, (from + I / 2 + I % 2 * W)...);
#else
    typedef typename Vector<typename ByBits<V>::number>::bits B;
    return __builtin_shuffle(a, b, B{(from + I / 2 + I % 2 * W)...});
#endif
}

// A square of numbers, a vector per row, turned into a vector per column.
template <class V>
inline void transpose(V* rows) {
    constexpr int W = sizeof(V) / sizeof(typename ByBits<V>::number);
    const auto lanes = std::make_index_sequence<W>();
#pragma GCC unroll 8
    for (int round = 1; round < W; round *= 2) {
        V next[W];
#pragma GCC unroll 16
        for (int i = 0; i < W / 2; ++i) {
            next[2 * i] = interleaved<false>(rows[i], rows[i + W / 2], lanes);
            next[2 * i + 1] = interleaved<true>(rows[i], rows[i + W / 2], lanes);
        }
        std::memcpy(rows, next, sizeof(next));
    }
}

constexpr double inverse_factorial(int n) { return n <= 1 ? 1.0 : inverse_factorial(n - 1) / n; }

// 2^n * e^r with |r| <= log(2)/2, by the Taylor series. Below the smallest normal number it is as good as 0.
template <class V>
inline V exponential(V x) {
    typedef typename ByBits<V>::number T;
    typedef Vector<T> Info;
    typedef typename Info::bits B;
    x = x < Info::smallest ? V{} + Info::smallest : x;
    x = x > Info::largest ? V{} + Info::largest : x;
    const V shifted = x * T(1.4426950408889634) + Info::round;
    const V n = shifted - Info::round;
    const V r = x - n * Info::log2_high - n * Info::log2_low;
    V sum = V{} + T(inverse_factorial(Info::exp_terms));
#pragma GCC unroll 16
    for (int i = Info::exp_terms - 1; i >= 0; --i) sum = sum * r + T(inverse_factorial(i));
    return (V)((B)sum + ((B)shifted << Info::mantissa));
}

// log(2^n * m) with sqrt(1/2) <= m < sqrt(2): the series of 2 artanh((m - 1) / (m + 1)). x is positive.
template <class V>
inline V logarithm(V x) {
    typedef typename ByBits<V>::number T;
    typedef Vector<T> Info;
    typedef typename Info::bits B;
    const B shift = (B)x - (B)(V{} + T(0.70710678118654752));
    const B n = shift >> Info::mantissa;
    const V m = (V)((B)x - (n << Info::mantissa));
    const V exponent = __builtin_convertvector(n, V);
    const V s = (m - T(1)) / (m + T(1)), square = s * s;
    V sum = V{} + T(1.0 / (2 * Info::log_terms + 1));
#pragma GCC unroll 16
    for (int i = Info::log_terms - 1; i >= 0; --i) sum = sum * square + T(1.0 / (2 * i + 1));
    const V result = exponent * T(Info::log2_high) + (exponent * T(Info::log2_low) + T(2) * s * sum);
    return x == x ? result : x;  // what is no number stays none
}
