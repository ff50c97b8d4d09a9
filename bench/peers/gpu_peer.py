"""PyTorch on the GPU, one JSON line {"name", "seconds"} for every operation that `act_cuda_test --speed` also times.

Same shapes, bf16, random data. Attention is SDPA's flash kernel on the flattened batch: what a trainer without a token
forest would run for the same loss. Needs torch with CUDA; downloads nothing.
"""
import json
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

assert torch.cuda.is_available(), "gpu_peer.py needs a GPU"
torch.manual_seed(1)


def fresh(*shape, dtype=torch.bfloat16, grad=False):
    return torch.randn(*shape, device="cuda", dtype=dtype, requires_grad=grad)


def report(name, call):
    """Median over five rounds of calls queued back to back, as on our side."""
    def once(calls):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / calls
    once(3)
    calls = max(1, min(200, int(0.05 / once(3))))
    print(json.dumps({"name": name, "seconds": sorted(once(calls) for _ in range(5))[2]}), flush=True)


def products(name, m, n, k):
    x, w, dy = fresh(m, k), fresh(n, k), fresh(m, n)
    report(f"linear {name}", lambda: x @ w.t())
    if m >= 1024:
        report(f"linear_backward_input {name}", lambda: dy @ w)
        report(f"linear_backward_weight {name}", lambda: dy.t() @ x)


def attention(name, batch, length):
    q = fresh(batch, 16, length, 128, grad=True)
    k, v = fresh(batch, 8, length, 128, grad=True), fresh(batch, 8, length, 128, grad=True)

    def forward():
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    with torch.no_grad():
        report(f"attention {name}", forward)
    out, dout = forward(), fresh(batch, 16, length, 128)
    report(f"attention_backward {name}", lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True))


for m in (1, 8, 64, 256, 4096):
    products(f"0.6B up M={m}", m, 3072, 1024)
for m in (1, 256, 4096):
    products(f"8B up M={m}", m, 12288, 4096)
attention("4 x 4096 causal", 4, 4096)
attention("700 + 8 x 300", 8, 1000)  # the group, flattened

x = fresh(16384, 1024)
w = fresh(1024)
report("rms_norm", lambda: F.rms_norm(x, (1024,), w, 1e-6))
p = fresh(16384, 1024, dtype=torch.float32, grad=True)
p.grad = fresh(16384, 1024, dtype=torch.float32)
optimizer = torch.optim.AdamW([p], fused=True)
report("adamw", optimizer.step)
