# Programs that test the CUDA backend on the first GPU of this machine; scripts/gpu-check.mjs runs them.
file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/ops/*.cc)
add_executable(ops_gpu_test ${sources})
target_include_directories(ops_gpu_test PRIVATE ${CMAKE_SOURCE_DIR}/test/native ${CMAKE_CURRENT_SOURCE_DIR}/ops)
target_link_libraries(ops_gpu_test PRIVATE longhaul_engine GTest::gtest GTest::gtest_main)
target_compile_definitions(ops_gpu_test PRIVATE LONGHAUL_HARDWARE=1)
longhaul_beside_cuda_library(ops_gpu_test)

# The layouts of single instructions: the kernels come from native/cuda, where nvcc is the compiler.
find_package(CUDAToolkit REQUIRED)
file(GLOB ptx CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/ptx/*.cc)
add_executable(ptx_gpu_test ${ptx} $<TARGET_OBJECTS:longhaul_ptx_kernels> $<TARGET_OBJECTS:longhaul_ptx_sm90>)
target_include_directories(ptx_gpu_test PRIVATE ${CMAKE_SOURCE_DIR}/test/native)
target_link_libraries(ptx_gpu_test PRIVATE CUDA::cudart_static GTest::gtest GTest::gtest_main)
set_target_properties(ptx_gpu_test PROPERTIES LINKER_LANGUAGE CXX)
add_dependencies(gpu_tests ptx_gpu_test)
