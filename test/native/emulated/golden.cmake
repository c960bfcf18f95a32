# The golden cases on the emulated GPUs: end to end, model files in, tokens and logits out. One schedule each is enough here,
# another for each device: the op tests run every kernel in all of them.
target_sources(golden PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/emulated/emulated_devices.cc
               ${CMAKE_CURRENT_SOURCE_DIR}/emulated/register_devices.cc)
target_include_directories(golden PRIVATE ${CMAKE_SOURCE_DIR}/test/native)
target_link_libraries(golden PRIVATE longhaul_cuda_emulated)
if(LONGHAUL_SANITIZE OR LONGHAUL_EMULATOR_RACE)
  return()  # minutes, for kernels that the op tests have shown already
endif()

function(longhaul_emulated_golden name device schedule)
  add_test(NAME ${name} COMMAND golden --device ${device} ${CMAKE_SOURCE_DIR}/test/fixtures)
  set_tests_properties(${name} PROPERTIES LABELS emulator ENVIRONMENT "LONGHAUL_EMULATOR_SCHEDULE=${schedule}")
endfunction()
if(NOT TARGET emulated_tests)
  add_custom_target(emulated_tests)  # without GoogleTest there is nothing else
endif()
add_dependencies(emulated_tests golden)
longhaul_emulated_golden(golden_cuda_emulated cuda-emulated forward)
longhaul_emulated_golden(golden_cuda_emulated_sm90 cuda-emulated:1 random:11)
