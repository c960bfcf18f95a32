# Suites of the CUDA backend on the emulator (ctest -L emulator selects them); the target `emulated_tests` builds what they
# need and nothing else. The op tests run in three schedules; instrumented builds, four to seven times slower, add their
# own checks in one, because what they find does not depend on it.
set(LONGHAUL_SCHEDULES forward reverse random:7)
if(LONGHAUL_SANITIZE OR LONGHAUL_EMULATOR_RACE)
  set(LONGHAUL_SCHEDULES random:7)
endif()
# These ops have one kernel for all GPUs: as sm_90 they would only be the same again.
set(LONGHAUL_SAME_AS_SM80 "*Sampling*sm90:*Selection*sm90:*Cache*sm90:*Routing*sm90:*Gradients*sm90")
add_custom_target(emulated_tests)

# NAME SOURCES files LINK libraries: a GoogleTest program with the emulator, run in every schedule, or in those given.
function(longhaul_emulated_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK;SCHEDULES" ${ARGN})
  if(NOT ARG_SCHEDULES)
    set(ARG_SCHEDULES ${LONGHAUL_SCHEDULES})
  endif()
  add_executable(${name} ${ARG_SOURCES} ${CMAKE_CURRENT_SOURCE_DIR}/emulated/emulated_devices.cc)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/test/native)
  target_link_libraries(${name} PRIVATE ${ARG_LINK} longhaul_cuda_emulated GTest::gtest GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE LONGHAUL_FIXTURES="${CMAKE_SOURCE_DIR}/test/fixtures")
  add_dependencies(emulated_tests ${name})
  foreach(schedule ${ARG_SCHEDULES})
    gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST TEST_PREFIX "${schedule}/" TEST_FILTER "-${LONGHAUL_SAME_AS_SM80}"
                         PROPERTIES LABELS emulator ENVIRONMENT "LONGHAUL_EMULATOR_SCHEDULE=${schedule}")
  endforeach()
endfunction()

# The sources of another room's suite, with the emulated GPU as the device under test.
function(longhaul_emulated_suite room)
  cmake_parse_arguments(ARG "" "" "LINK;SCHEDULES" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${room}/*.cc)
  longhaul_emulated_program(${room}_emulated_test SOURCES ${sources} LINK ${ARG_LINK} SCHEDULES ${ARG_SCHEDULES})
  target_include_directories(${room}_emulated_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/${room})
endfunction()

longhaul_emulated_suite(ops LINK longhaul_reference)

# Kernels by themselves, without the backend.
file(GLOB cuda_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cc)
longhaul_emulated_program(cuda_emulated_test SOURCES ${cuda_tests} ${CMAKE_CURRENT_SOURCE_DIR}/emulated/as_sm90.cc)

# The host side of the backend, and what the engine makes of it: recorded passes, errors.
file(GLOB cuda_host_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda_host/*.cc)
longhaul_emulated_program(cuda_host_emulated_test SOURCES ${cuda_host_tests}
                          ${CMAKE_CURRENT_SOURCE_DIR}/emulated/register_devices.cc LINK longhaul_engine)

# Programs with kernels of their own: those are compiled like the kernels of native/cuda.
function(longhaul_emulated_kernels)
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS
                              "-O2;-g1;-fno-math-errno;-Wno-unknown-pragmas;${LONGHAUL_RACE_FLAGS}")
endfunction()

# The test of the tests chooses schedules itself.
file(GLOB planted CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/planted/*.cc)
file(GLOB planted_kernels CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/planted/*.cu)
longhaul_emulated_kernels(${planted_kernels})
add_executable(planted_test ${planted} ${planted_kernels})
target_include_directories(planted_test PRIVATE ${CMAKE_SOURCE_DIR}/test/native)
target_link_libraries(planted_test PRIVATE longhaul_cuda_emulated GTest::gtest GTest::gtest_main)
add_dependencies(emulated_tests planted_test)
gtest_discover_tests(planted_test DISCOVERY_MODE PRE_TEST PROPERTIES LABELS emulator)

# Caches and the whole engine. Schedules of every kernel are the business of the op tests; here the order of streams and
# graphs matters, and one random schedule brings all of it. The race detector has nothing to add.
longhaul_emulated_suite(kv LINK longhaul_kv longhaul_reference SCHEDULES random:7)
if(NOT LONGHAUL_EMULATOR_RACE)
  longhaul_emulated_suite(engine LINK longhaul_engine SCHEDULES random:7)
  target_sources(engine_emulated_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/emulated/register_devices.cc)
endif()

# The layouts we read out of the PTX ISA; the same sources are built for a GPU (hardware/tests.cmake).
file(GLOB ptx CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/ptx/*.cc)
file(GLOB ptx_kernels CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/ptx/*.cu)
longhaul_emulated_kernels(${ptx_kernels})
longhaul_emulated_program(ptx_emulated_test SOURCES ${ptx} ${ptx_kernels} ${CMAKE_CURRENT_SOURCE_DIR}/emulated/as_sm90.cc)
