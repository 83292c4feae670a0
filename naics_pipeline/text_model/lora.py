"""LoRA as one product: what an adapter learned is added to the frozen matrix, not to what the matrix says."""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


class OneProduct(Linear):
    """PEFT's layer, y = W x + b + s B A x (Hu et al., 2022, equation 3), multiplied as (W + s B A) x + b.

    The sum of the matrices costs next to nothing, where adding to y reads and writes all that a batch says once more,
    and a processor is slow at two thin products. The gradients of A and B need no gradient of W.

    Anything but one adapter without dropout is multiplied as PEFT does; so is what runs under autocast, where small
    steps would be lost in a W of half precision.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        active = [name for name in self.active_adapters if name in self.lora_A]
        is_plain = len(active) == 1 and active[0] not in self.lora_variant and not args and not kwargs
        if (
            not is_plain
            or self.disable_adapters
            or self.merged
            or torch.is_autocast_enabled(x.device.type)
            or (self.training and not isinstance(self.lora_dropout[active[0]], nn.Identity))
        ):
            said: Tensor = super().forward(x, *args, **kwargs)
            return said
        name, base = active[0], self.get_base_layer()
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        product: Tensor = _Product.apply(x, base.weight, base.bias, down, up, self.scaling[name])
        return product


class _Product(torch.autograd.Function):
    """(W + s B A) x + b of x (…, in), with gradients for x, A (r, in) and B (out, r)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, down, up)
        ctx.scale = scale
        return linear(x, torch.addmm(weight, up, down, alpha=scale), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x, weight, down, up = ctx.saved_tensors
        rows, slopes = x.reshape(-1, x.shape[-1]), slope.reshape(-1, slope.shape[-1])
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (slopes @ torch.addmm(weight, up, down, alpha=ctx.scale)).view_as(x)
        of_down = ((slopes @ up).mT @ rows).mul_(ctx.scale)
        of_up = (slopes.mT @ (rows @ down.mT)).mul_(ctx.scale)
        return of_x, None, None, of_down, of_up, None
