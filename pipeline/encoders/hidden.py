"""One hidden state of a model of the transformers library, for a padded batch of token ids.

States are taken by hooks, not by `output_hidden_states`, which keeps those of all blocks in memory
and hands out the last one only after the final normalisation.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

_FINAL_NORMS = ("norm", "final_norm", "ln_f", "final_layernorm", "final_layer_norm")
"""What the library's models call the normalisation behind their last block."""


class HiddenState:
    """A model that gives one hidden state of every token."""

    def __init__(
        self,
        model: Any,
        layer: int,
        norm: Literal["post", "pre"],
        *,
        bidirectional: bool,
        name: str,
    ) -> None:
        """layer, norm: as in the block `Transformers`. name: of the model, for messages.

        Raises ConfigError when the model has no such state or cannot attend both ways.
        """
        self.model = model
        self.name = name
        self._state: Tensor | None = None
        model.config.use_cache = False
        if layer != -1:
            self._stop_at(layer, norm)
        elif norm == "pre":
            self._take_input_of_final_norm()
        if bidirectional:
            self._attend_both_ways()

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return [B, L, H] of ids [B, L] int64, padded on the right, and mask [B, L] bool."""
        self._state = None
        with suppress(_ReachedError):
            out = self.model(input_ids=ids, attention_mask=mask.long())
        state = out.last_hidden_state if self._state is None else self._state
        self._state = None
        return state  # type: ignore[no-any-return]

    # ------------------------------------------------------------ which state

    def _stop_at(self, layer: int, norm: str) -> None:
        """Take what enters the block `layer`, and compute nothing from there on."""
        if norm == "pre":
            raise self._wrong(
                f"norm: pre is the last state before the final normalisation, but layer is {layer}",
                "Set layer: -1, or norm: post",
            )
        _, blocks = self._parent_and_blocks()
        if layer >= len(blocks):
            raise self._wrong(
                f"it has {len(blocks)} blocks, params say layer: {layer}",
                f"Set layer: 0 to {len(blocks) - 1}, or -1 for the last state",
            )
        # Memory that nothing reads; the block itself stays, since models ask blocks for settings.
        del blocks[layer + 1 :]

        def stop(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._state = args[0] if args else named["hidden_states"]
            raise _ReachedError

        blocks[layer].register_forward_pre_hook(stop, with_kwargs=True)

    def _take_input_of_final_norm(self) -> None:
        parent, _ = self._parent_and_blocks()
        found = [getattr(parent, name) for name in _FINAL_NORMS if hasattr(parent, name)]
        if not found or not self._is_last(found[0]):
            raise self._wrong(
                f"no final normalisation was found in {type(self.model).__name__} "
                f"(looked for {', '.join(_FINAL_NORMS)})",
                "Set norm: post",
            )

        def take(_: Any, args: tuple[Any, ...]) -> None:
            self._state = args[0]

        found[0].register_forward_pre_hook(take)

    def _is_last(self, norm: nn.Module) -> bool:
        """Whether the model's result is what a module gives."""
        import torch

        given: list[Tensor] = []
        hook = norm.register_forward_hook(lambda _, args, out: given.append(out))
        ids = self._some_ids()
        with torch.inference_mode():
            result = self(ids, torch.ones_like(ids, dtype=torch.bool))
        hook.remove()
        return len(given) == 1 and torch.equal(given[0], result)

    def _some_ids(self) -> Tensor:
        """Return [2, 4] token ids, the rows equal but for the last one."""
        import torch

        device = next(self.model.parameters()).device
        return torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]], device=device)

    def _parent_and_blocks(self) -> tuple[nn.Module, Any]:
        """Return the list of the model's blocks and the module that owns it."""
        from torch import nn

        count = getattr(self.model.config.get_text_config(), "num_hidden_layers", None)
        for parent in self.model.modules():
            for child in parent.children():
                if isinstance(child, nn.ModuleList) and len(child) == count:
                    return parent, child
        raise self._wrong(
            f"its blocks were not found in {type(self.model).__name__}",
            "Set layer: -1 and norm: post",
        )

    # ------------------------------------------------------------ attention

    def _attend_both_ways(self) -> None:
        """Switch the causal mask off, and see that it is.

        Source: the library's own switch, `is_causal` of config (masks) and attention (kernels).
        """
        if self._sees_later_tokens():
            raise self._wrong("its tokens attend to later ones already", "Set bidirectional: false")
        for module in self.model.modules():
            if hasattr(module, "config"):
                module.config.is_causal = False
            if hasattr(module, "is_causal"):
                module.is_causal = False
        if not self._sees_later_tokens():
            raise self._wrong(
                "bidirectional: true takes no effect on the state asked for",
                "Set bidirectional: false",
            )

    def _sees_later_tokens(self) -> bool:
        """Whether another last token changes the state of the one before it."""
        import torch

        ids = self._some_ids()
        with torch.inference_mode():
            one, other = self(ids, torch.ones_like(ids, dtype=torch.bool))[:, 2].float()
        # Far above rounding, also of bfloat16, and far below what attention does.
        return bool((one - other).norm() > 1e-3 * one.norm())

    def _wrong(self, problem: str, remedy: str) -> ConfigError:
        return ConfigError(f"encoder model {self.name!r}: {problem}. {remedy}.")


class _ReachedError(Exception):
    """The state asked for is there; what follows it is not computed."""
