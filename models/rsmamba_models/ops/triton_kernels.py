"""The Triton kernels behind ``triton_scan``; importing this module needs Triton.

Conventions shared by all of them:

* A direction walks its pixels in *line coordinates* ``s = 0 .. L-1`` of a base row of the order
  table. Two opposite directions share the row: side 0 walks it upwards, side 1 downwards, so chunk
  ``c`` (``s`` in ``[c T, (c+1) T)``) is the same set of pixels for both and one program can sum
  their outputs without atomics. ``pairs`` is ``(P, 2)``: the directions of sides 0 and 1 (-1 for
  none).
* A state is a tile ``(N, channels)``. In the forward kernels channels lie across the lanes, all N
  of a channel in one thread, so ``sum_n`` needs no shuffle and ``B_t``, ``C_t`` are broadcasts.
* ``rates`` is ``A log2(e)`` as ``(K, N, D)``: one multiplication and one ``exp2`` a decay.
* Addresses are 64 bit: ``B K L D`` passes 2^31 on large maps.
* Loads run one step ahead of the arithmetic (two for the index), because a step is shorter than
  the latency of memory. Indices past the end of a chunk are clamped, so no load is out of bounds.
"""

# The bodies are Triton's language: its compiler types them, and it has no starred tuples.
# mypy: ignore-errors
# ruff: noqa: RUF005, SIM300

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)
# Chunks that the carry loads before it stores: their latencies overlap.
CARRY_UNROLL = tl.constexpr(8)
# Integers whose value must not make another variant of a kernel, or every new map size could
# compile again. (B and C keep their strides specialised: their rows load as vectors.)
PLAIN = (
    *("L", "K", "P", "chunks", "steps", "blocks", "items", "batch", "size"),
    *("u_b", "u_l", "x_b", "x_l", "gy_b", "gy_l", "delta_b", "delta_k", "delta_l"),
)
# In the forward kernels D too: were it known to be a multiple of 16, Triton would give a lane four
# channels and spread the states of a channel over lanes. The gradient kernel, which sums over the
# states and over the channels, is better off that way.
FORWARD_PLAIN = (*PLAIN, "D")


@triton.jit
def _softplus(x, ACC: tl.constexpr):
    """softplus(x), the identity above 20; relatively accurate for very negative x as well."""
    y = tl.exp2(-tl.abs(x) * LOG2E)
    if ACC == tl.float64:
        w = 1.0 + y
        log1p = tl.where(w == 1.0, y, tl.log(w) * y / tl.where(w == 1.0, 1.0, w - 1.0))
    else:
        # log(1 + y) = 2 atanh(y / (2 + y)); the hardware logarithm is poor near 1.
        z = y / (2.0 + y)
        q = z * z
        log1p = z * (
            2.0
            + q * (2 / 3 + q * (2 / 5 + q * (2 / 7 + q * (2 / 9 + q * (2 / 11 + q * (2 / 13))))))
        )
    return tl.where(x > 20.0, x, tl.maximum(x, 0.0) + log1p)


@triton.jit
def softplus_slope(x):
    """The derivative of ``_softplus``: sigmoid(x), and 1 above 20."""
    y = tl.exp2(-tl.abs(x) * LOG2E)
    return tl.where(x > 20.0, 1.0, tl.where(x >= 0.0, 1.0, y) / (1.0 + y))


@triton.jit
def step_of(raw, SOFTPLUS: tl.constexpr, ACC: tl.constexpr):
    """The step from its raw value, bias included."""
    if SOFTPLUS:
        return _softplus(raw, ACC)
    return raw


@triton.jit
def row(pointer, p, stride, i, mask, ACC: tl.constexpr):
    """Row ``p`` of a (L, .) tensor, in the dtype of the state."""
    return tl.load(pointer + p.to(tl.int64) * stride + i, mask=mask, other=0.0).to(ACC)


@triton.jit(do_not_specialize=FORWARD_PLAIN)
def chunk_state(
    x,
    delta,
    weight,
    rates,
    bias,
    order,
    pairs,
    state,
    total,
    x_b,
    x_l,
    delta_b,
    delta_k,
    delta_l,
    weight_b,
    weight_k,
    weight_l,
    L,
    D,
    N,
    K,
    P,
    chunks,
    steps,
    blocks,
    ADJOINT: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    SIDES: tl.constexpr,
    NP: tl.constexpr,
    BD: tl.constexpr,
    ACC: tl.constexpr,
):
    """End state of every chunk started from zero, and the sum of its steps.

    Forward: ``h <- a h + step u B`` (x = u, weight = B). ADJOINT, walked against time:
    ``g <- a (g + grad_y C)`` (x = grad_y, weight = C), ``total`` left alone.
    Writes state (B, K, chunks, N, D) and total (B, K, chunks, D).
    """
    pid = tl.program_id(0)
    block = pid % blocks
    c = pid // blocks % chunks
    side = pid // (blocks * chunks) % SIDES
    pair = pid // (blocks * chunks * SIDES) % P
    b = (pid // (blocks * chunks * SIDES * P)).to(tl.int64)
    k = tl.load(pairs + pair * 2 + side)
    if k >= 0:
        line = order + tl.load(pairs + pair * 2).to(tl.int64) * L
        d = block * BD + tl.arange(0, BD)
        n = tl.arange(0, NP)
        in_d, in_n = d < D, n < N
        tile = n[:, None] * D + d[None, :]
        in_tile = in_n[:, None] & in_d[None, :]

        x += b * x_b
        delta += b * delta_b + k.to(tl.int64) * delta_k
        weight += b * weight_b + k.to(tl.int64) * weight_k
        a2 = tl.load(rates + k * N * D + tile, mask=in_tile, other=0.0)
        shift = tl.zeros((BD,), ACC)
        if BIAS:
            shift = tl.load(bias + k * D + d, mask=in_d, other=0.0)

        start = c * steps
        count = tl.minimum(steps, L - start)
        up = side == 0
        if ADJOINT:
            up = side == 1
        first = tl.where(up, start, start + count - 1)
        sign = tl.where(up, 1, -1)

        p = tl.load(line + first)
        p_next = tl.load(line + first + sign * tl.minimum(1, count - 1))
        raw = row(delta, p, delta_l, d, in_d, ACC)
        v = row(x, p, x_l, d, in_d, ACC)
        w = row(weight, p, weight_l, n, in_n, ACC)
        h = tl.zeros((NP, BD), ACC)
        summed = tl.zeros((BD,), ACC)
        for t in range(count):
            raw_next = row(delta, p_next, delta_l, d, in_d, ACC)
            v_next = row(x, p_next, x_l, d, in_d, ACC)
            w_next = row(weight, p_next, weight_l, n, in_n, ACC)
            p_next = tl.load(line + first + sign * tl.minimum(t + 2, count - 1))

            step = step_of(raw + shift, SOFTPLUS, ACC)
            decay = tl.exp2(step[None, :] * a2)
            if ADJOINT:
                h = decay * (h + w[:, None] * v[None, :])
            else:
                h = decay * h + w[:, None] * (step * v)[None, :]
            summed += step
            raw, v, w = raw_next, v_next, w_next

        at = (b * K + k) * chunks + c
        tl.store(state + at * N * D + tile, h, mask=in_tile)
        if not ADJOINT:
            tl.store(total + at * D + d, summed, mask=in_d)


@triton.jit(do_not_specialize=PLAIN)
def carry(
    state,
    total,
    rates,
    pairs,
    D,
    N,
    K,
    P,
    chunks,
    blocks,
    ADJOINT: tl.constexpr,
    SIDES: tl.constexpr,
    E: tl.constexpr,
    ACC: tl.constexpr,
):
    """Replace every chunk's local end state by the true state that the chunk starts from.

    ``start_{c+1} = exp2(rates total_c) start_c + local_c`` in the direction's own time, against it
    for ADJOINT. Elements of the state are independent: one a thread.
    """
    pid = tl.program_id(0)
    block = pid % blocks
    side = pid // blocks % SIDES
    pair = pid // (blocks * SIDES) % P
    b = (pid // (blocks * SIDES * P)).to(tl.int64)
    k = tl.load(pairs + pair * 2 + side)
    if k >= 0:
        e = block * E + tl.arange(0, E)
        inside = e < N * D
        d = e % D
        a2 = tl.load(rates + k * N * D + e, mask=inside, other=0.0)
        up = side == 0
        if ADJOINT:
            up = side == 1
        base = (b * K + k) * chunks
        now = tl.zeros((E,), ACC)
        for i in range(0, chunks, CARRY_UNROLL):
            local = ()
            decay = ()
            for j in tl.static_range(CARRY_UNROLL):
                c = tl.where(up, i + j, chunks - 1 - i - j)
                mask = inside & (i + j < chunks)
                local = local + (tl.load(state + (base + c) * N * D + e, mask=mask, other=0.0),)
                summed = tl.load(total + (base + c) * D + d, mask=mask, other=0.0)
                decay = decay + (tl.exp2(summed * a2),)
            for j in tl.static_range(CARRY_UNROLL):
                c = tl.where(up, i + j, chunks - 1 - i - j)
                mask = inside & (i + j < chunks)
                tl.store(state + (base + c) * N * D + e, now, mask=mask)
                now = decay[j] * now + local[j]


@triton.jit(do_not_specialize=FORWARD_PLAIN)
def chunk_scan(
    u,
    delta,
    B,
    C,
    rates,
    skip,
    bias,
    order,
    pairs,
    state,
    out,
    u_b,
    u_l,
    delta_b,
    delta_k,
    delta_l,
    B_b,
    B_k,
    B_l,
    C_b,
    C_k,
    C_l,
    L,
    D,
    N,
    K,
    P,
    chunks,
    steps,
    blocks,
    BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    SIDES: tl.constexpr,
    FROM_ZERO: tl.constexpr,
    SKIP: tl.constexpr,
    NP: tl.constexpr,
    BD: tl.constexpr,
    ACC: tl.constexpr,
):
    """Run every chunk from its true start state and write y of a pair of directions.

    Writes out (B, P, L, D): both sides' sum, in the dtype of the state unless there is a single
    direction; then SKIP adds ``skip u`` and out is the result itself.
    """
    pid = tl.program_id(0)
    block = pid % blocks
    c = pid // blocks % chunks
    pair = pid // (blocks * chunks) % P
    b = (pid // (blocks * chunks * P)).to(tl.int64)
    line = order + tl.load(pairs + pair * 2).to(tl.int64) * L
    d = block * BD + tl.arange(0, BD)
    n = tl.arange(0, NP)
    in_d, in_n = d < D, n < N
    tile = n[:, None] * D + d[None, :]
    in_tile = in_n[:, None] & in_d[None, :]
    u += b * u_b
    out += (b * P + pair) * L * D
    start = c * steps
    count = tl.minimum(steps, L - start)

    for side in range(SIDES):
        k = tl.load(pairs + pair * 2 + side)
        if k >= 0:
            delta_row = delta + b * delta_b + k.to(tl.int64) * delta_k
            B_row = B + b * B_b + k.to(tl.int64) * B_k
            C_row = C + b * C_b + k.to(tl.int64) * C_k
            a2 = tl.load(rates + k * N * D + tile, mask=in_tile, other=0.0)
            shift = tl.zeros((BD,), ACC)
            if BIAS:
                shift = tl.load(bias + k * D + d, mask=in_d, other=0.0)
            through = tl.zeros((BD,), ACC)
            if SKIP:
                through = tl.load(skip + k * D + d, mask=in_d, other=0.0)
            h = tl.zeros((NP, BD), ACC)
            if not FROM_ZERO:
                at = (b * K + k) * chunks + c
                h = tl.load(state + at * N * D + tile, mask=in_tile, other=0.0)
            first = tl.where(side == 0, start, start + count - 1)
            sign = tl.where(side == 0, 1, -1)

            p = tl.load(line + first)
            p_next = tl.load(line + first + sign * tl.minimum(1, count - 1))
            raw = row(delta_row, p, delta_l, d, in_d, ACC)
            v = row(u, p, u_l, d, in_d, ACC)
            Bt = row(B_row, p, B_l, n, in_n, ACC)
            Ct = row(C_row, p, C_l, n, in_n, ACC)
            # Side 1 adds to what side 0 wrote: other threads of this program may have written it.
            tl.debug_barrier()
            also = in_d & (side > 0)
            before = tl.load(out + p.to(tl.int64) * D + d, mask=also, other=0.0)
            for t in range(count):
                raw_next = row(delta_row, p_next, delta_l, d, in_d, ACC)
                v_next = row(u, p_next, u_l, d, in_d, ACC)
                Bt_next = row(B_row, p_next, B_l, n, in_n, ACC)
                Ct_next = row(C_row, p_next, C_l, n, in_n, ACC)
                p_after = tl.load(line + first + sign * tl.minimum(t + 2, count - 1))
                there = out + p_next.to(tl.int64) * D + d
                before_next = tl.load(there, mask=also, other=0.0)

                step = step_of(raw + shift, SOFTPLUS, ACC)
                h = tl.exp2(step[None, :] * a2) * h + Bt[:, None] * (step * v)[None, :]
                y = tl.sum(Ct[:, None] * h, 0)
                if SKIP:
                    y += through * v
                tl.store(out + p.to(tl.int64) * D + d, before + y, mask=in_d)
                raw, v, Bt, Ct, before = raw_next, v_next, Bt_next, Ct_next, before_next
                p, p_next = p_next, p_after


@triton.jit(do_not_specialize=PLAIN)
def merge(parts, x, skip, out, x_b, x_l, size, D, P, SKIP: tl.constexpr, E: tl.constexpr):
    """Write out (B, L, D) = the sum of parts (B, P, L, D) over P, in order, + skip (D) x (B, L, D).

    ``size`` is L D.
    """
    b = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0).to(tl.int64) * E + tl.arange(0, E)
    inside = e < size
    part = parts + b * P * size + e
    total = tl.load(part, mask=inside, other=0.0)
    for _ in range(1, P):
        part += size
        total += tl.load(part, mask=inside, other=0.0)
    if SKIP:
        d = e % D
        v = tl.load(x + b * x_b + e // D * x_l + d, mask=inside, other=0.0).to(total.dtype)
        total += v * tl.load(skip + d, mask=inside, other=0.0)
    tl.store(out + b * size + e, total, mask=inside)
