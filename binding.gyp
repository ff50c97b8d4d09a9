# For tools that look for a gyp file: the build itself is CMakeLists.txt, run through cmake-js.
{
  "targets": [
    {
      "target_name": "act_addon",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake_js",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["<(module_root_dir)/build/native/Release/act_addon.node"],
          "action": ["npm", "run", "--prefix", "<(module_root_dir)", "build:native"]
        }
      ]
    }
  ]
}
