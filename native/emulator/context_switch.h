// The switch from one stack to another: saves the callee-saved registers, nothing else.
#pragma once

extern "C" void longhaul_emulator_switch(void** save_stack_pointer, void* load_stack_pointer);

namespace longhaul::emulator {

// Lays out a fresh stack, so that the first switch to it calls `entry`. Returns its stack pointer.
void* make_stack(unsigned char* top, void (*entry)());

}  // namespace longhaul::emulator
