"""The keys and values of all running texts: one row each, from column 0, in transformers' terms.

A row is written where its own text ends, so texts of different lengths share a forward pass, and
one can join or leave without the others being moved. What is beyond a row's end is masked by the
caller and kept zero: a masked infinity would still spoil a sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_COLUMNS_STEP = 64
_GROWTH = 1.5


class RowCache(Cache):  # type: ignore[misc]
    """A cache for a model's forward passes over some of its rows. One thread uses it.

    Before each pass `aim` says which rows it is about. Memory is taken by `aim` and `reserve`,
    never inside the pass, and given back by `clear`.

    Args:
        layers: Of the model.
        groups: Key and value heads.
        head_dim: Width of a head.
        dtype: Of keys and values: the model's.
        device: The model's.
        rows: Most rows.
        columns: Most columns of a row.
    """

    def __init__(
        self,
        *,
        layers: int,
        groups: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        rows: int,
        columns: int,
    ) -> None:
        self._rows, self._columns = rows, columns
        self.row_layers = [_RowLayer(groups, head_dim, dtype, device) for _ in range(layers)]
        super().__init__(layers=self.row_layers)

    @property
    def nbytes(self) -> int:
        """Memory taken now, bytes."""
        return sum(layer.nbytes for layer in self.row_layers)

    def reserve(self, rows: int, columns: int) -> None:
        """Make room for so many rows and columns; layer by layer, what is there is kept.

        Raises:
            RuntimeError: If memory does not suffice (torch.OutOfMemoryError is one); what was
                there is still there.
        """
        for layer in self.row_layers:
            layer.reserve(rows, columns, self._rows, self._columns)

    def aim(self, first: int, starts: Sequence[int], tokens: int) -> None:
        """Say what the next pass is about: rows first, first + 1, ..., and where they end.

        Args:
            first: Row of the first text.
            starts: For each text, the columns its row holds already, which is where it goes on.
            tokens: New tokens of each text; more than 1 only for a single text.

        Raises:
            ValueError: If several texts are to get more than one token each.
            RuntimeError: As `reserve`.
        """
        if tokens > 1 and len(starts) > 1:
            raise ValueError(f"one text at a time may be read in, got {len(starts)}")
        seen = max(starts)
        self.reserve(first + len(starts), seen + tokens)
        device = self.row_layers[0].device
        rows = torch.arange(first, first + len(starts), device=device)
        columns = torch.tensor(list(starts), device=device)
        for layer in self.row_layers:
            layer.aim(first, len(starts), seen, rows, columns)

    def put(self, row: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write ready keys and values to the beginning of a row.

        Args:
            row: Its number.
            keys: (layers, groups, columns, head_dim); converted to the cache's dtype.
            values: The same shape.

        Raises:
            RuntimeError: As `reserve`.
        """
        columns = keys.shape[2]
        self.reserve(row + 1, columns)
        for layer, key, value in zip(self.row_layers, keys, values, strict=True):
            layer.keys[row, :, :columns] = key
            layer.values[row, :, :columns] = value

    def drop(self, row: int, last: int, length: int) -> None:
        """Let the last row take a row's place, and zero what was the last.

        Args:
            row: The one to give up.
            last: The last one in use; may be the same.
            length: Columns that the longer of the two holds.
        """
        for layer in self.row_layers:
            layer.drop(row, last, length)

    def clear(self) -> None:
        """Give all memory back."""
        for layer in self.row_layers:
            layer.clear()


class _RowLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's rows: keys and values are (rows, groups, columns, head_dim)."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(
        self, groups: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.dtype, self.device = dtype, device
        self._shape = groups, head_dim
        self._first = self._count = self._seen = 0
        self._places: tuple[torch.Tensor, torch.Tensor]
        self.is_initialized = True
        self.clear()

    @property
    def nbytes(self) -> int:
        return int(self.keys.nbytes + self.values.nbytes)

    def clear(self) -> None:
        groups, head_dim = self._shape
        self.keys = torch.zeros((0, groups, 0, head_dim), dtype=self.dtype, device=self.device)
        self.values = self.keys.clone()

    def reserve(self, rows: int, columns: int, most_rows: int, most_columns: int) -> None:
        has_rows, has_columns = self.keys.shape[0], self.keys.shape[2]
        if rows <= has_rows and columns <= has_columns:
            return
        if rows > has_rows:
            rows = min(most_rows, max(rows, 2 * has_rows))
        if columns > has_columns:
            columns = max(columns, int(has_columns * _GROWTH))
            columns = min(most_columns, -(-columns // _COLUMNS_STEP) * _COLUMNS_STEP)
        self.keys = _grown(self.keys, max(rows, has_rows), max(columns, has_columns))
        self.values = _grown(self.values, max(rows, has_rows), max(columns, has_columns))

    def aim(
        self, first: int, count: int, seen: int, rows: torch.Tensor, columns: torch.Tensor
    ) -> None:
        self._first, self._count, self._seen = first, count, seen
        self._places = rows, columns

    def drop(self, row: int, last: int, length: int) -> None:
        if last >= self.keys.shape[0]:  # memory for it could not be had
            return
        for side in (self.keys, self.values):
            if row != last:
                side[row, :, :length] = side[last, :, :length]
            side[last].zero_()

    # -- what transformers calls ------------------------------------------------------------------

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is left to do: memory was reserved before the pass."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new states, (texts, groups, tokens, head_dim), and return those of the rows."""
        tokens = key_states.shape[2]
        first, end = self._first, self._first + self._count
        if self._count == 1:
            self.keys[first, :, self._seen : self._seen + tokens] = key_states[0]
            self.values[first, :, self._seen : self._seen + tokens] = value_states[0]
        else:
            rows, columns = self._places
            self.keys[rows, :, columns] = key_states[:, :, 0]
            self.values[rows, :, columns] = value_states[:, :, 0]
        width = self._seen + tokens
        return self.keys[first:end, :, :width], self.values[first:end, :, :width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns of the coming pass, and the first of them."""
        return self._seen + query_length, 0

    def get_seq_length(self) -> int:
        """Columns of the longest row before the coming pass."""
        return self._seen

    def get_max_length(self) -> int:
        """No limit of its own."""
        return -1


def _grown(side: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    new = side.new_zeros((rows, side.shape[1], columns, side.shape[3]))
    new[: side.shape[0], :, : side.shape[2]] = side
    return new
