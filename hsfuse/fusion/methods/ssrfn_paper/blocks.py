"""The modules of SSRFN, named as in the paper: SFE, DFE, CFE, SCM, SpaR and SpeR, FFM.

Numbers in brackets refer to the list of readings in ``docs/methods.md``: places where the paper leaves a choice.
All modules take and return (n, width, row, col) features and work at any size.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.fusion.methods.ssrfn_paper.config import SsrfnConfig
from hsfuse.fusion.nets.layers import SequenceMixer, VolumeConv, activation, conv1x1, conv3x3
from hsfuse.fusion.nets.native import elementwise

_ROW_BYTES = 800_000
"""Of one feature map: fewer would be many small calls, more would not stay in a core's second-level cache."""


def inference_rows(x: Tensor) -> list[slice] | None:
    """Rows of (n, channel, row, col) for chains of cheap operations: as many as stay in the cache.

    None where everything is done at once: with gradients, which need what is between, and on a GPU.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return None
    step = max(_ROW_BYTES // (x.shape[0] * x.shape[1] * x.shape[3] * x.element_size()), 1)
    return [slice(top, min(top + step, x.shape[2])) for top in range(0, x.shape[2], step)]


class MixerFactory:
    """Makes the Mamba mixers of one network and hands out scan directions in turn."""

    def __init__(self, config: SsrfnConfig) -> None:
        self._config, self._made = config, 0

    def __call__(self, width: int, *, scan_channels: bool = False) -> SequenceMixer:
        """Return the next mixer for ``width`` channels."""
        c = self._config
        mixer = SequenceMixer(
            width,
            kind=c.mamba,
            scan="channels" if scan_channels else c.scan,
            direction=self._made,
            wrap=c.mamba_wrap,
            d_state=c.d_state,
            d_conv=c.d_conv,
            expand=c.expand,
            headdim=c.headdim,
        )
        self._made += 1
        return mixer


class ShallowFeatures(nn.Module):
    """SFE: four 3x3 convolutions with residual connections [2].

    ``pairs``: two residual pairs, the first with a 1x1 convolution on its skip because the channels change;
    ``whole``: one skip over all four.
    """

    def __init__(self, channels: int, config: SsrfnConfig) -> None:
        super().__init__()
        width = config.width
        self.skip_mode = config.sfe_skip
        self.skip = conv1x1(channels, width)
        self.convs = nn.ModuleList([conv3x3(channels if i == 0 else width, width) for i in range(4)])
        self.act = activation(config.activation)

    def forward(self, x: Tensor) -> Tensor:
        """Turn an image (n, channels, row, col) into features."""
        first, second, third, fourth = self.convs
        inner = first(x, act=self.act)
        out: Tensor
        if self.skip_mode == "whole":
            inner = third(second(inner, act=self.act), act=self.act)
            out = fourth(inner, self.skip(x))
        else:
            pair = second(inner, self.skip(x))
            out = fourth(third(pair, act=self.act), pair)
        return out


class DeepBlock(nn.Module):
    """One block of DFE: three 3x3 convolutions and a Mamba, Conv3(Conv2(Conv1(u)) + Mamba(u)) [3, 4]."""

    def __init__(self, config: SsrfnConfig, mixers: MixerFactory) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv3x3(config.width, config.width) for _ in range(3)])
        self.act = activation(config.activation)
        self.where, self.residual = config.dfe_mamba, config.dfe_residual
        self.mixer = None if config.dfe_mamba == "none" else mixers(config.width)

    def forward(self, u: Tensor) -> Tensor:
        """Refine features."""
        first, second, third = self.convs
        local = first(u, act=self.act)
        if self.mixer is not None and self.where == "local":
            local = second(local)
            local = self.act(local + self.mixer(local))
        else:
            local = second(local, None if self.mixer is None else self.mixer(u), act=self.act)
        out: Tensor = third(local, u if self.residual else None)
        return out


class DeepFeatures(nn.Module):
    """DFE: a chain of :class:`DeepBlock` (5 in the paper: 15 convolutions, a Mamba after every three)."""

    def __init__(self, config: SsrfnConfig, mixers: MixerFactory) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([DeepBlock(config, mixers) for _ in range(config.dfe_blocks)])

    def forward(self, u: Tensor) -> Tensor:
        """Refine features."""
        for block in self.blocks:
            u = block(u)
        return u


class CyclicErrors(nn.Module):
    """CFE: a convolutional GRU with a Mamba, cycled over the same input; yields the error features E [6, 7, 8].

    The input is the stack of HSI features and MSI features, both at low resolution. What the gates take from it
    does not change over the cycles and is computed once.
    """

    def __init__(self, config: SsrfnConfig, mixers: MixerFactory) -> None:
        super().__init__()
        width = config.width
        sets = 1 if config.cfe_shared else config.cfe_cycles
        self.cycles, self.width, self.where = config.cfe_cycles, width, config.cfe_mamba
        self.from_input = nn.ModuleList([conv3x3(2 * width, 3 * width) for _ in range(sets)])
        self.from_hidden = nn.ModuleList([conv3x3(width, 2 * width, bias=False) for _ in range(sets)])
        self.candidate = nn.ModuleList([conv3x3(width, width, bias=False) for _ in range(sets)])
        self.mixer = None
        if config.cfe_mamba != "none":
            self.mixer = mixers(width if config.cfe_mamba == "hidden" else 2 * width)

    def forward(self, hsi: Tensor, msi: Tensor) -> Tensor:
        """Return E from two feature maps of the same size."""
        stack = torch.cat([hsi, msi], dim=1)
        if self.mixer is not None and self.where == "input":
            stack = self.mixer(stack)
        hidden = torch.zeros_like(hsi)
        given = [conv(stack) for conv in self.from_input]
        for cycle in range(self.cycles):
            k = cycle % len(given)
            reset_in, update_in, new_in = given[k].split(self.width, dim=1)
            reset_h, update_h = self.from_hidden[k](hidden).split(self.width, dim=1)
            reset, update = torch.sigmoid(reset_in + reset_h), torch.sigmoid(update_in + update_h)
            new = torch.tanh(new_in + self.candidate[k](reset * hidden))
            hidden = torch.lerp(hidden, new, update)
            if self.mixer is not None and self.where == "hidden":
                hidden = self.mixer(hidden)
        return hidden


class SpatialCorrection(nn.Module):
    """SCM: repeated correction of the MSI features, F <- Conv(sigmoid(E) . (v . F) + F) [10].

    ``v`` starts as 1 and follows the previous output, bounded so that many products cannot explode.
    """

    def __init__(self, config: SsrfnConfig) -> None:
        super().__init__()
        self.steps, self.rule, self.residual = config.scm_steps, config.scm_gate, config.scm_residual
        convs = [conv3x3(config.width, config.width) for _ in range(1 if config.scm_shared else config.scm_steps)]
        if not self.residual:
            # Near an identity that shrinks a little: the default would make features vanish over 16 steps.
            for conv in convs:
                keep = nn.init.dirac_(torch.zeros_like(conv.weight))
                with torch.no_grad():
                    conv.weight.mul_(0.3).add_(keep, alpha=0.75)
        self.convs = nn.ModuleList(convs)

    def forward(self, errors: Tensor, features: Tensor) -> Tensor:
        """Correct features with error features of the same size."""
        weight = torch.sigmoid(errors)
        for step in range(self.steps):
            conv = self.convs[step % len(self.convs)]
            features = conv(self._all_gated(features, weight, first=step == 0), features if self.residual else None)
        return features

    def _all_gated(self, features: Tensor, weight: Tensor, *, first: bool) -> Tensor:
        done = elementwise.gated(features, weight, "one" if first else self.rule)
        rows = inference_rows(features) if done is None else None
        if done is not None or rows is None:
            return self._gated(features, weight, first=first) if done is None else done
        done = torch.empty_like(features)
        for part in rows:
            done[:, :, part] = self._gated(features[:, :, part], weight[:, :, part], first=first)
        return done

    def _gated(self, features: Tensor, weight: Tensor, *, first: bool) -> Tensor:
        """What the next convolution corrects: sigmoid(E) . (v . F) + F."""
        if first or self.rule == "one":
            return torch.addcmul(features, weight, features)
        gate = torch.tanh(features) if self.rule == "tanh" else 2.0 * torch.sigmoid(features)
        return torch.addcmul(features, weight, gate * features)


class Refinement(nn.Module):
    """SpaR (spatial kernels) or SpeR (spectral kernels): local and global features that gate each other [12-14].

    local = 3-D convolution, global = Mamba, both of the stack of two feature maps; a stage gives
    local' = sigmoid(local) . global + local and global' = sigmoid(global) . local + global.
    """

    def __init__(self, axis: Literal["spatial", "spectral"], config: SsrfnConfig, mixers: MixerFactory) -> None:
        super().__init__()
        wide = 2 * config.width
        count = config.refine_stages
        by_channels = axis == "spectral" and config.sper_scan == "channels"
        self.convs = nn.ModuleList([VolumeConv(wide, axis, config.volume, config.copies) for _ in range(count)])
        self.mixers = nn.ModuleList([mixers(wide, scan_channels=by_channels) for _ in range(count)])
        self.concat = config.refine_merge == "concat"
        self.out = conv1x1(2 * wide if self.concat else wide, config.width)

    def forward(self, stack: Tensor) -> Tensor:
        """Refine a stack (n, 2 width, row, col) into (n, width, row, col)."""
        near = far = stack
        rows = inference_rows(stack)
        for conv, mixer in zip(self.convs, self.mixers, strict=True):
            near, far = conv(near), mixer(far)
            if rows is None:
                near, far = _gate_each_other(near, far)
                continue
            far = far.clone() if far.data_ptr() == stack.data_ptr() else far
            if elementwise.exchange_(near, far) is not None:
                continue
            for part in rows:
                at = (slice(None), slice(None), part)
                near[at], far[at] = _gate_each_other(near[at], far[at])
        if rows is None:
            return self._merged(near, far)
        out = torch.empty_like(stack[:, : self.out.out_channels], memory_format=torch.channels_last)
        for part in rows:
            out[:, :, part] = self._merged(near[:, :, part], far[:, :, part])
        return out

    def _merged(self, near: Tensor, far: Tensor) -> Tensor:
        merged: Tensor = self.out(torch.cat([near, far], dim=1) if self.concat else near + far)
        return merged


def _gate_each_other(near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
    return torch.addcmul(near, torch.sigmoid(near), far), torch.addcmul(far, torch.sigmoid(far), near)


def _inverse_attention(
    key: Tensor, value: Tensor, query: Tensor, mode: Literal["elementwise", "matrix"], copies: int
) -> Tensor:
    """(1 - softmax(K . V)) . Q + V, element by element, or with a channel-by-channel matrix [15].

    Element by element a channel's share counts ``copies`` times, for its copies take a part of it each.
    """
    if mode == "elementwise":
        done = elementwise.attend(key, value, query, copies)
        if done is not None:
            return done
        rows = inference_rows(query)
        if rows is None:
            return _attend(key, value, query, copies)
        out = torch.empty_like(query)
        for part in rows:
            out[:, :, part] = _attend(key[:, :, part], value[:, :, part], query[:, :, part], copies)
        return out
    k, v, q = (t.flatten(2) for t in (key, value, query))
    scores = torch.softmax(k @ v.transpose(1, 2) / k.shape[-1], dim=-1)
    return (query.flatten(2) - scores @ q).reshape(query.shape) + value


def _attend(key: Tensor, value: Tensor, query: Tensor, copies: int) -> Tensor:
    return torch.addcmul(query + value, torch.softmax(key * value, dim=1), query, value=-float(copies))


class FeatureFusion(nn.Module):
    """FFM: two rounds of inverse attention between Mamba features; the second leads to the bands [15, 16]."""

    def __init__(self, bands: int, config: SsrfnConfig, mixers: MixerFactory) -> None:
        super().__init__()
        width = config.width
        self.attention, self.source, self.copies = config.ffm_attention, config.ffm_source, config.copies
        self.first = nn.ModuleList([mixers(width) for _ in range(3)])
        self.second = nn.ModuleList([mixers(width) for _ in range(3)])
        each = config.ffm_projection == "each"
        self.projections = nn.ModuleList([conv1x1(width, bands) for _ in range(3)]) if each else None
        self.head = None if each else conv1x1(width, bands)

    @torch.no_grad()
    def scale_output(self, factor: float) -> None:
        """Scale the initial last layers; with 0 the module returns zero for every input, and yet learns."""
        last = [self.head] if self.projections is None else [self.projections[0], self.projections[2]]
        for conv in last:
            for parameter in () if conv is None else conv.parameters():
                parameter.mul_(factor)

    def forward(self, spatial: Tensor, spectral: Tensor) -> Tensor:
        """Fuse two feature maps into an image (n, bands, row, col)."""
        query, key, value = self.first[0](spatial), self.first[1](spatial), self.first[2](spectral)
        fused = _inverse_attention(key, value, query, self.attention, self.copies)
        del query, key, value
        first, second = (spatial, spectral) if self.source == "streams" else (fused, fused)
        a, b, d = self.second[0](first), self.second[1](second), self.second[2](fused)
        if self.projections is not None:
            a, b, d = (conv(t) for conv, t in zip(self.projections, (a, b, d), strict=True))
        out = _inverse_attention(b, d, a, self.attention, self.copies)
        return out if self.head is None else self.head(out)


def pool(x: Tensor, ratio: int) -> Tensor:
    """Mean over blocks of ``ratio`` by ``ratio`` pixels."""
    return F.avg_pool2d(x, ratio)
