// All blocks of a decoder for some rows of tokens: what a step is given.
#pragma once

#include <cstdint>

#include "cache_pages.hpp"
#include "w4_weight.hpp"

struct StepLinear {
  W4Weight weight;
  const float* bias;  // [outputs], or null
  int64_t exact;      // as in w4_matmul
};

// Weights of a block, and its pages. Norms that a family does not have are null.
struct StepLayer {
  StepLinear query_key_value, attention_output, gate_up, down;
  const float* attention_norm;         // [hidden]
  const float* mlp_norm;               // [hidden]
  const float* head_norm;              // [heads + kv_heads][channels]
  const float* attention_output_norm;  // [hidden]
  const float* mlp_output_norm;        // [hidden]
  CachePages keys, values;
  int64_t window;                      // 0: all of the past
};

struct StepShape {
  int64_t layers, hidden, inner, heads, kv_heads, channels;
  int64_t rotary;      // channels of a head that turn
  int64_t activation;  // 0: silu, 1: gelu by tanh
  float eps, query_scale, cap;
};

// As in attention.hpp; cosines and sines are [rows][rotary].
struct StepRows {
  const float *cosines, *sines;
  const int64_t *slots, *starts, *lengths, *table;
  int64_t rows, sequences, width;
};
