"""A stock `AutoencoderTiny` without full-resolution blocks, computed without its full-resolution feature maps.

The encoder's first two convolutions have nothing between them, nor have the decoder's last upsampling and two
convolutions. Two linear maps in a row are one: a 5 x 5 convolution of stride 2 on the picture, and a 3 x 3 convolution
to 4 x 3 channels at half resolution with a pixel shuffle. The composed kernels are made from the stock parameters at
every call, so training them trains the stock module; the outermost pixels, where the stock module pads between the two
convolutions, are computed the stock way on thin strips. Equal to the stock module up to rounding.
"""

import torch
from diffusers import AutoencoderTiny
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["build_vae", "decode", "encode"]

DECODER_BLOCKS = (3, 4, 3, 0)  # At 16 x 16, 32 x 32, 64 x 64; none at 128 x 128, so that `decode` can compose.

# Fine offsets -2..2 of an upsampled row, summed to coarse offsets -1..1, for even and for odd fine rows.
FOLD = torch.tensor(
    [[[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]], [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]]
)


def build_vae() -> AutoencoderTiny:
    """Pocket's autoencoder, fresh: f8, 4 latent channels, blocks at no more than 64 x 64.

    It begins as what it has to beat, shrinking and enlarging: residual blocks that do nothing yet, the colours carried
    in the first channels (and as positive and negative parts through the decoder's rectifiers), the other channels
    random. From a random start a thousand steps go by before it knows colours.
    """
    vae = AutoencoderTiny(num_encoder_blocks=(0, 0, 2, 3), num_decoder_blocks=DECODER_BLOCKS)
    blur = torch.tensor([1.0, 2.0, 1.0])
    blur = torch.outer(blur, blur) / 16
    with torch.no_grad():
        for half, carried in ((vae.encoder.layers, 3), (vae.decoder.layers, 6)):
            for layer in half:
                if isinstance(layer, AutoencoderTinyBlock):
                    layer.conv[-1].weight.zero_()
                    layer.conv[-1].bias.zero_()
                elif isinstance(layer, nn.Conv2d) and layer.in_channels == layer.out_channels:
                    layer.weight[:carried] = 0
                    for i in range(layer.in_channels):
                        layer.weight[i, i] += blur
        first, last = vae.encoder.layers[0], vae.encoder.layers[-1]
        for layer, gain, bias in ((first, 1.0, 0.0), (last, 4.0, -2.0)):
            layer.weight[:3] = 0
            layer.bias[:3] = bias
            for i in range(3):
                layer.weight[i, i, 1, 1] = gain
        first, last = vae.decoder.layers[0], vae.decoder.layers[-1]
        first.weight[:6] = 0
        first.bias[:6] = 0
        last.weight *= 0.1
        last.weight[:, :6] = 0
        last.bias.fill_(0.5)
        for i in range(3):
            first.weight[i, i, 1, 1], first.weight[i + 3, i, 1, 1] = 1, -1
            last.weight[i, i, 1, 1], last.weight[i, i + 3, 1, 1] = 0.25, -0.25
    return vae


def encode(vae: AutoencoderTiny, x: Tensor) -> Tensor:
    """Latents (B, 4, h, w) of pictures (B, 3, 8h, 8w) in [-1, 1]: `vae.encoder(x)`."""
    first, second, *rest = vae.encoder.layers
    x = x.add(1).div(2)
    with torch.autocast(first.weight.device.type, enabled=False):
        kernel = compose(first.weight, second.weight)
        bias = second.weight.sum((2, 3)) @ first.bias
    h = F.conv2d(x, kernel, bias, stride=2, padding=2)
    top = second(first(x[:, :, :4])[:, :, :3])[:, :, :1]
    left = second(first(x[..., :4])[..., :3])[..., 1:, :1]
    h = torch.cat([top, torch.cat([left, h[..., 1:, 1:]], 3)], 2)
    z: Tensor = nn.Sequential(*rest)(h)
    return z


def decode(vae: AutoencoderTiny, z: Tensor) -> Tensor:
    """Pictures (B, 3, 8h, 8w), about [-1, 1], of latents (B, 4, h, w): `vae.decoder(z)`."""
    *rest, up, first, second = vae.decoder.layers
    h = nn.Sequential(*rest)(torch.tanh(z / 3) * 3)
    with torch.autocast(first.weight.device.type, enabled=False):
        kernel = compose(first.weight, second.weight)
        fold = FOLD.to(kernel)
        kernel = torch.einsum("pay,qbx,ocyx->opqcab", fold, fold, kernel)  # (3, 2, 2, 64, 3, 3)
        kernel = kernel.flatten(0, 2)
        bias = second.bias.repeat_interleave(4)
    x = F.pixel_shuffle(F.conv2d(h, kernel, bias, padding=1), 2)

    def strip(part: Tensor) -> Tensor:
        pixels: Tensor = second(first(up(part)))
        return pixels

    top, bottom = strip(h[:, :, :2])[:, :, :1], strip(h[:, :, -2:])[:, :, -1:]
    left, right = strip(h[..., :2])[:, :, 1:-1, :1], strip(h[..., -2:])[:, :, 1:-1, -1:]
    x = torch.cat([top, torch.cat([left, x[:, :, 1:-1, 1:-1], right], 3), bottom], 2)
    return x.mul(2).sub(1)


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The kernel (O, I, 5, 5) of two 3 x 3 convolutions in a row, (M, I, 3, 3) and then (O, M, 3, 3)."""
    return F.conv2d(first.transpose(0, 1), second.flip(2, 3), padding=2).transpose(0, 1)
