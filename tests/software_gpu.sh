#!/usr/bin/env bash
# Runs a command where WebGPU has an adapter, whatever this machine has: Vulkan's software driver lavapipe of Mesa 25 or
# newer (VK_DRIVER_FILES names it where it is not the system's), and a folder in which onnxruntime looks for GPUs. Needs
# root on Linux; outside of the command nothing changes.
#
#     tests/software_gpu.sh python -m pytest tests/verification/test_operators.py tests/runtime/device/test_webgpu.py -k webgpu
set -euo pipefail
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
exec unshare --mount bash -c '
  mount -t tmpfs tmpfs /sys/class
  mkdir -p /sys/class/drm/card0/device
  echo 0x1af4 >/sys/class/drm/card0/device/vendor
  echo 0x1050 >/sys/class/drm/card0/device/device
  exec "$@"' - "$@"
