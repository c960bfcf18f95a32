# Suites of the CUDA backend on the emulator. Each test runs in three schedules (ctest -L emulator selects them all); the
# target `emulated_tests` builds what they need and nothing else.
set(LONGHAUL_SCHEDULES forward reverse random:7)
add_custom_target(emulated_tests)

# NAME SOURCES files LINK libraries: a GoogleTest program with the emulator, run in every schedule.
function(longhaul_emulated_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${ARG_SOURCES} ${CMAKE_CURRENT_SOURCE_DIR}/emulated/emulated_devices.cc)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/test/native)
  target_link_libraries(${name} PRIVATE ${ARG_LINK} longhaul_cuda_emulated GTest::gtest GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE LONGHAUL_FIXTURES="${CMAKE_SOURCE_DIR}/test/fixtures")
  add_dependencies(emulated_tests ${name})
  foreach(schedule ${LONGHAUL_SCHEDULES})
    gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST TEST_PREFIX "${schedule}/"
                         PROPERTIES LABELS emulator ENVIRONMENT "LONGHAUL_EMULATOR_SCHEDULE=${schedule}")
  endforeach()
endfunction()

# The sources of another room's suite, with the emulated GPU as the device under test.
function(longhaul_emulated_suite room)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${room}/*.cc)
  longhaul_emulated_program(${room}_emulated_test SOURCES ${sources} LINK ${ARGN})
  target_include_directories(${room}_emulated_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/${room})
endfunction()

longhaul_emulated_suite(ops longhaul_reference)

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
# graphs matters, and one random schedule brings all of it.
longhaul_emulated_suite(kv longhaul_kv longhaul_reference)
longhaul_emulated_suite(engine longhaul_engine)
target_sources(engine_emulated_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/emulated/register_devices.cc)
