#include "emulator/context_switch.h"

#include <cstdint>

// `ret` would go by the processor's return predictor, which knows one stack only: popping and jumping instead
// makes a switch four times as fast.
#if defined(__x86_64__)
asm(R"(
.text
.globl longhaul_emulator_switch
.hidden longhaul_emulator_switch
.type longhaul_emulator_switch,@function
longhaul_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmpq *%rcx
.size longhaul_emulator_switch,.-longhaul_emulator_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl longhaul_emulator_switch
.hidden longhaul_emulator_switch
.type longhaul_emulator_switch,%function
longhaul_emulator_switch:
  stp x29, x30, [sp, #-160]!
  stp x19, x20, [sp, #16]
  stp x21, x22, [sp, #32]
  stp x23, x24, [sp, #48]
  stp x25, x26, [sp, #64]
  stp x27, x28, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #16]
  ldp x21, x22, [sp, #32]
  ldp x23, x24, [sp, #48]
  ldp x25, x26, [sp, #64]
  ldp x27, x28, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldp x29, x30, [sp], #160
  br x30
.size longhaul_emulator_switch,.-longhaul_emulator_switch
)");
#else
#error "the emulator knows the stacks of x86-64 and aarch64 only"
#endif

namespace longhaul::emulator {

void* make_stack(unsigned char* top, void (*entry)()) {
  auto** slot = reinterpret_cast<void**>(top);
#if defined(__x86_64__)
  *--slot = nullptr;  // a function expects rsp % 16 == 8 when it is entered
  *--slot = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--slot = nullptr;
#else
  for (int saved = 0; saved < 20; ++saved) *--slot = nullptr;
  slot[1] = reinterpret_cast<void*>(entry);
#endif
  return slot;
}

}  // namespace longhaul::emulator
