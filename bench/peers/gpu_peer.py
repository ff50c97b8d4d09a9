"""PyTorch on the GPU, one JSON line {"name", "seconds"} for all that `act_cuda_test --speed` also times.

Same shapes, bf16, random data. Attention is SDPA's flash kernel on the flattened batch: what a trainer without a token
forest would run for the same loss. The training step is transformers' Qwen3 with torch.compile and fused AdamW (left out,
with a line on stderr, where transformers is missing). Needs torch with CUDA; downloads nothing.
"""
import json
import os
import sys
import time

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

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


def training_step(name, batch, length):
    """Full fine-tuning of a Qwen3-0.6B of random weights in bf16, loss on every token."""
    try:
        from transformers import Qwen3Config, Qwen3ForCausalLM
    except ImportError as error:
        print(f"{name}: left out, {error}", file=sys.stderr)
        return
    config = Qwen3Config(vocab_size=151936, hidden_size=1024, num_hidden_layers=28, num_attention_heads=16,
                         num_key_value_heads=8, head_dim=128, intermediate_size=3072, tie_word_embeddings=True,
                         max_position_embeddings=8192, attn_implementation="sdpa")
    model = Qwen3ForCausalLM(config).to("cuda", torch.bfloat16)
    model.train()
    compiled = torch.compile(model)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    ids = torch.randint(0, config.vocab_size, (batch, length), device="cuda")

    def step():
        compiled(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad(set_to_none=True)
    try:
        report(name, step)
    except torch.cuda.OutOfMemoryError as error:  # logits of the whole vocabulary for every token
        print(f"{name}: left out, {error}", file=sys.stderr)


del p, optimizer
training_step("training step 0.6B 4 x 4096", 4, 4096)
