// What liblonghaul_mpi.so offers. It is built against the MPI of this machine and opened at run time, so that
// nothing else needs MPI's headers or libraries. Plain C: the two sides need not share a compiler.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct LonghaulMpiMessage {
  int32_t rank;  // the other one
  void* data;    // not written where it is sent
  size_t bytes;
};

struct LonghaulMpi {
  int32_t rank;
  int32_t size;
  // Sends and receives all, or says why not. 0: done. Afterwards a failure is final. One thread at a time.
  int32_t (*exchange)(const LonghaulMpiMessage* sends, size_t send_count, const LonghaulMpiMessage* receives,
                      size_t receive_count, int64_t timeout_ms, char* why, size_t why_bytes);
  // Meets all other ranks, at most `timeout_ms` long, and finalizes MPI; without them it leaves MPI as it is,
  // because MPI_Finalize would wait for the dead. Nothing may be called afterwards.
  int32_t (*close)(int64_t timeout_ms, char* why, size_t why_bytes);
};

// Starts MPI in this process, once. Null: `why` says why not.
using LonghaulMpiOpen = const LonghaulMpi* (*)(char* why, size_t why_bytes);
constexpr const char* kLonghaulMpiSymbol = "longhaul_mpi_open_1";

}  // extern "C"
