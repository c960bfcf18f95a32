{
  # CMake is the only build definition. This file exists so that `node-gyp rebuild`, `node-gyp-build`
  # (a build from source when no prebuild fits) and `prebuildify` all end in the same CMake build.
  "targets": [
    {
      "target_name": "longhaul_cmake",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake_build",
          "message": "building the native core with CMake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["<(PRODUCT_DIR)/longhaul.node"],
          "action": ["node", "<(module_root_dir)/scripts/cmake-build.cjs", "<(PRODUCT_DIR)", "$(BUILDTYPE)"]
        }
      ]
    }
  ]
}
