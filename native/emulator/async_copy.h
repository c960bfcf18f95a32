// cp.async: copies from global to shared memory that land when they are waited for, and not before: until then
// the target holds NaN, so that a missing wait shows in every schedule.
#pragma once

namespace longhaul::emulator {

// Copies `source_bytes` and fills up to `bytes` with zeros.
void async_copy(void* target, const void* source, int bytes, int source_bytes);
void async_commit();
// Until at most `groups` of this thread's latest groups are under way.
void async_wait(int groups);
// Every copy of this thread, committed or not (cp.async.wait_all).
void async_wait_all();

}  // namespace longhaul::emulator
