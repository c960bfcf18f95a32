# The target `gpu_tests` builds every program that needs a GPU.
add_custom_target(gpu_tests)

# Devices are found beside the program: the library has to lie there.
function(longhaul_beside_cuda_library program)
  add_dependencies(${program} longhaul_cuda)
  add_custom_command(TARGET ${program} POST_BUILD
                     COMMAND ${CMAKE_COMMAND} -E create_symlink $<TARGET_FILE:longhaul_cuda>
                             $<TARGET_FILE_DIR:${program}>/$<TARGET_FILE_NAME:longhaul_cuda>)
  add_dependencies(gpu_tests ${program})
endfunction()
