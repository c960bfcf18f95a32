# LONGHAUL_INTERFACE: a hash of everything that the addon and the CUDA library must have in common to call each other
# through C++: the core's headers, the compiler and its version, sanitizers.
file(GLOB core_headers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/native/core/*.h)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${core_headers})
set(interface "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION} ${CMAKE_SYSTEM_PROCESSOR} ${LONGHAUL_SANITIZE}")
foreach(header ${core_headers})
  file(SHA256 ${header} header_hash)
  string(APPEND interface " ${header_hash}")
endforeach()
string(SHA256 LONGHAUL_INTERFACE "${interface}")
