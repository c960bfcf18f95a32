# The suites of test/native/parallel over a real mpirun, where MPI is installed (Debian: openmpi-bin, libopenmpi-dev).
set(MPI_CXX_SKIP_MPICXX TRUE)
find_package(MPI QUIET COMPONENTS CXX)
if(NOT MPI_CXX_FOUND OR NOT MPIEXEC_EXECUTABLE)
  message(STATUS "longhaul: MPI not found (Debian: openmpi-bin, libopenmpi-dev): the tests over mpirun are left out")
  return()
endif()
if(LONGHAUL_SANITIZE OR LONGHAUL_EMULATOR)
  message(STATUS "longhaul: the tests over mpirun are left out of builds with sanitizers or the emulator: MPI is not ours to check")
  return()
endif()

add_library(longhaul_mpi SHARED ${CMAKE_SOURCE_DIR}/native/parallel/mpi/shim.cc)
target_include_directories(longhaul_mpi PRIVATE ${CMAKE_SOURCE_DIR}/native)
target_link_libraries(longhaul_mpi PRIVATE MPI::MPI_CXX)

file(GLOB suites CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/parallel/*.cc)
list(FILTER suites EXCLUDE REGEX "thread")
add_executable(parallel_mpi_test ${suites} ${CMAKE_CURRENT_SOURCE_DIR}/parallel_mpi/ranks_mpi.cc)
target_link_libraries(parallel_mpi_test PRIVATE GTest::gtest)
add_executable(mpi_rank_killed ${CMAKE_CURRENT_SOURCE_DIR}/parallel_mpi/rank_killed.cc)
foreach(program parallel_mpi_test mpi_rank_killed)
  target_include_directories(${program} PRIVATE ${CMAKE_SOURCE_DIR}/test/native ${CMAKE_CURRENT_SOURCE_DIR}/parallel)
  target_link_libraries(${program} PRIVATE longhaul_parallel longhaul_reference longhaul_cpu longhaul_model ${CMAKE_DL_LIBS})
  target_compile_definitions(${program} PRIVATE LONGHAUL_FIXTURES="${CMAKE_SOURCE_DIR}/test/fixtures"
                             LONGHAUL_MPI_LIBRARY="$<TARGET_FILE:longhaul_mpi>")
  add_dependencies(${program} longhaul_mpi)
endforeach()

# As root, and with more ranks than cores.
set(mpi_environment OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
                    OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none)
foreach(ranks 2 4)
  add_test(NAME parallel_mpi_${ranks} COMMAND ${MPIEXEC_EXECUTABLE} -n ${ranks} $<TARGET_FILE:parallel_mpi_test>)
  set_tests_properties(parallel_mpi_${ranks} PROPERTIES ENVIRONMENT "${mpi_environment}" TIMEOUT 600)
endforeach()

# Only Open MPI's launcher is known to let the others live.
execute_process(COMMAND ${MPIEXEC_EXECUTABLE} --version OUTPUT_VARIABLE mpi_version ERROR_QUIET)
if(mpi_version MATCHES "Open MPI|OpenRTE")
  add_test(NAME mpi_rank_killed
           COMMAND ${CMAKE_COMMAND} -DMPIEXEC=${MPIEXEC_EXECUTABLE} -DPROGRAM=$<TARGET_FILE:mpi_rank_killed>
                   -P ${CMAKE_CURRENT_SOURCE_DIR}/parallel_mpi/rank_killed.cmake)
  set_tests_properties(mpi_rank_killed PROPERTIES ENVIRONMENT "${mpi_environment}" TIMEOUT 200)
else()
  message(STATUS "longhaul: killing a rank is tested with Open MPI's mpirun only")
endif()
