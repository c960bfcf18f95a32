// Names the source line of an address of code, for reports.
#pragma once

#include <cstddef>

namespace longhaul::emulator {

// "file.cu:12" when addr2line is there to be asked and the program has line tables, otherwise object and
// offset.
void source_line(const void* code, char* out, size_t bytes);

}  // namespace longhaul::emulator
