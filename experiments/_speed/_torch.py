"""The training step of a transformer by torch.compile, in a process of its own: `device.py` calls this.

python _torch.py '{"kind": "gpt", ...}'  ->  {"step_ms": ...}, as a line of JSON
"""

import json
import sys
import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Transformer(nn.Module):
    """A ViT over patches, or a GPT over tokens whose embedding is its head."""

    def __init__(self, size: dict[str, Any]):
        super().__init__()
        width, self.kind = size["width"], size["kind"]
        if self.kind == "gpt":
            self.embed = nn.Embedding(size["vocabulary"], width)
            tokens = size["shape"][0]
        else:
            patch = size["patch"]
            self.embed = nn.Conv2d(size["shape"][-1], width, patch, patch)
            self.cls = nn.Parameter(torch.zeros(1, 1, width))
            self.head = nn.Linear(width, 1000)
            tokens = (size["shape"][0] // patch) ** 2 + 1
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        layer = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, size["heads"], 4 * width, **layer) for _ in range(size["depth"])
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits of tokens [B, T] or images [B, C, H, W]."""
        if self.kind == "gpt":
            x, mask = self.embed(inputs), nn.Transformer.generate_square_subsequent_mask(inputs.shape[1], inputs.device)
        else:
            x, mask = self.embed(inputs).flatten(2).transpose(1, 2), None
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        x = x + self.position
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=mask is not None)
        x = self.norm(x)
        return functional.linear(x, self.embed.weight) if self.kind == "gpt" else self.head(x[:, 0])


def main(text: str) -> None:
    """Times the step and prints what came of it."""
    size = json.loads(text)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Transformer(size).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    batch = size["batch"]
    if size["kind"] == "gpt":
        inputs = torch.randint(0, 256, (batch, size["shape"][0]), device=device)
        labels = inputs[:, 1:].reshape(-1)
    else:
        inputs = torch.rand(batch, size["shape"][-1], *size["shape"][:2], device=device)
        labels = torch.randint(0, 1000, (batch,), device=device)

    def loss() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=size["dtype"] == "bfloat16"):
            logits = model(inputs)
            logits = logits[:, :-1].reshape(len(labels), -1) if size["kind"] == "gpt" else logits
            return functional.cross_entropy(logits.float(), labels)

    compiled = torch.compile(loss)

    def steps() -> None:
        for _ in range(size["steps"]):
            optimizer.zero_grad(set_to_none=True)
            compiled().backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    steps()
    times = []
    for _ in range(size["rounds"]):
        began = time.perf_counter()
        steps()
        times.append(time.perf_counter() - began)
    print(json.dumps({"torch_step_ms": 1e3 * min(times) / size["steps"], "torch": torch.__version__}))


if __name__ == "__main__":
    main(sys.argv[1])
