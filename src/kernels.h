// The ops as kernel calls, by family.
#pragma once

#include "kernel_call.h"

namespace longhaul::kernels {

void embed(KernelCall& call);
void rms_norm(KernelCall& call);
void gemm(KernelCall& call);
void swiglu(KernelCall& call);
void rope_table(KernelCall& call);
void rope(KernelCall& call);
void gather_rows(KernelCall& call);

void append(KernelCall& call);
void attention(KernelCall& call);
void merge_states(KernelCall& call);
void truncate(KernelCall& call);

void score_keys(KernelCall& call);
void key_diversity(KernelCall& call);
void select(KernelCall& call);
void compact(KernelCall& call);

void sample(KernelCall& call);

}  // namespace longhaul::kernels
