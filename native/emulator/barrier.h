// Barriers of a block: __syncthreads and the sixteen named ones.
#pragma once

namespace longhaul::emulator {

// Arrives and waits. `expected` 0: every thread that has not returned. `name` says what and where, for reports.
void barrier_sync(int id, int expected, const char* name);
// Arrives without waiting (bar.arrive).
void barrier_arrive(int id, int expected, const char* name);

enum class Reduction { kCount, kAnd, kOr };
// __syncthreads_count, _and, _or.
int barrier_reduce(Reduction reduction, int predicate, const char* name);

}  // namespace longhaul::emulator
