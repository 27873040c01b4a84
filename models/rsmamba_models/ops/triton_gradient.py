"""The Triton kernel of the scan's gradients; see ``triton_kernels`` for the conventions."""

# The bodies are Triton's language: its compiler types them, and it has no starred tuples.
# mypy: ignore-errors
# ruff: noqa: RUF005

import triton
import triton.language as tl

from rsmamba_models.ops.triton_kernels import LN2, PLAIN, row, softplus_slope, step_of


@triton.jit(do_not_specialize=PLAIN)
def chunk_backward(
    grad_y,
    u,
    delta,
    B,
    C,
    rates,
    bias,
    order,
    pairs,
    state,
    adjoint,
    scratch,
    du,
    ddelta,
    dB,
    dC,
    dbias,
    gy_b,
    gy_l,
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
    items,
    batch,
    BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    SIDES: tl.constexpr,
    NP: tl.constexpr,
    BD: tl.constexpr,
    UNROLL: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradients of every chunk, from its start state and the gradient of its end state.

    The states of a chunk are recomputed twice: once to note every UNROLL-th in ``scratch`` (this
    program's own), once UNROLL at a time in registers on the way back. With ``G_t`` the gradient of
    ``h_t``: ``G_t = g_t + gy_t C_t``, ``g_{t-1} = a_t G_t``.

    state (B, K, chunks, N, D) holds the start states and receives the chunk's part of dA; adjoint,
    of the same shape, the gradients of the end states; du (B, P, L, D) receives a pair's sum,
    dB, dC (blocks, B, K, L, N) a channel block's part, dbias (B, K, chunks, D) a chunk's.
    """
    n = tl.arange(0, NP)
    in_n = n < N
    own = scratch + tl.program_id(0).to(tl.int64) * tl.cdiv(steps, UNROLL) * NP * BD
    slot = n[:, None] * BD + tl.arange(0, BD)[None, :]
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        block = item % blocks
        c = item // blocks % chunks
        pair = item // (blocks * chunks) % P
        b = (item // (blocks * chunks * P)).to(tl.int64)
        line = order + tl.load(pairs + pair * 2).to(tl.int64) * L
        d = block * BD + tl.arange(0, BD)
        in_d = d < D
        tile = n[:, None] * D + d[None, :]
        in_tile = in_n[:, None] & in_d[None, :]
        gy_row = grad_y + b * gy_b
        u_row = u + b * u_b
        du_row = du + (b * P + pair) * L * D
        start = c * steps
        count = tl.minimum(steps, L - start)
        groups = tl.cdiv(count, UNROLL)

        for side in range(SIDES):
            k = tl.load(pairs + pair * 2 + side)
            if k >= 0:
                kl = k.to(tl.int64)
                delta_row = delta + b * delta_b + kl * delta_k
                B_row = B + b * B_b + kl * B_k
                C_row = C + b * C_b + kl * C_k
                ddelta_row = ddelta + (b * K + kl) * L * D
                grad_row = ((block * batch + b) * K + kl) * L * N
                a2 = tl.load(rates + k * N * D + tile, mask=in_tile, other=0.0)
                shift = tl.zeros((BD,), ACC)
                if BIAS:
                    shift = tl.load(bias + k * D + d, mask=in_d, other=0.0)
                at = (b * K + kl) * chunks + c
                h = tl.load(state + at * N * D + tile, mask=in_tile, other=0.0)
                first = tl.where(side == 0, start, start + count - 1)
                sign = tl.where(side == 0, 1, -1)
                up_to = (groups - 1) * UNROLL
                tl.debug_barrier()  # side 1 reuses the scratch and adds to side 0's du

                p = tl.load(line + first)
                p_next = tl.load(line + first + sign * tl.minimum(1, count - 1))
                raw = row(delta_row, p, delta_l, d, in_d, ACC)
                v = row(u_row, p, u_l, d, in_d, ACC)
                Bt = row(B_row, p, B_l, n, in_n, ACC)
                for t in range(up_to):
                    raw_next = row(delta_row, p_next, delta_l, d, in_d, ACC)
                    v_next = row(u_row, p_next, u_l, d, in_d, ACC)
                    Bt_next = row(B_row, p_next, B_l, n, in_n, ACC)
                    p_next = tl.load(line + first + sign * tl.minimum(t + 2, count - 1))
                    if t % UNROLL == 0:
                        tl.store(own + t // UNROLL * NP * BD + slot, h)
                    step = step_of(raw + shift, SOFTPLUS, ACC)
                    h = tl.exp2(step[None, :] * a2) * h + Bt[:, None] * (step * v)[None, :]
                    raw, v, Bt = raw_next, v_next, Bt_next
                tl.debug_barrier()

                g = tl.load(adjoint + at * N * D + tile, mask=in_tile, other=0.0)
                dA = tl.zeros((NP, BD), ACC)
                dshift = tl.zeros((BD,), ACC)
                for i in range(groups):
                    t0 = up_to - i * UNROLL
                    places = ()
                    steps_ = ()
                    slopes = ()
                    inputs = ()
                    decays = ()
                    decayed = ()  # a_t h_{t-1}
                    for j in tl.static_range(UNROLL):
                        # Past the chunk's end, everything loads as 0 and a step of 0 leaves the
                        # state as it is.
                        t = t0 + j
                        inside = t < count
                        p = tl.load(line + first + sign * tl.minimum(t, count - 1))
                        raw = row(delta_row, p, delta_l, d, in_d & inside, ACC) + shift
                        v = row(u_row, p, u_l, d, in_d & inside, ACC)
                        Bt = row(B_row, p, B_l, n, in_n & inside, ACC)
                        step = tl.where(inside, step_of(raw, SOFTPLUS, ACC), 0.0)
                        decay = tl.exp2(step[None, :] * a2)
                        kept = decay * h
                        h = kept + Bt[:, None] * (step * v)[None, :]
                        places = places + (p,)
                        steps_ = steps_ + (step,)
                        if SOFTPLUS:
                            slopes = slopes + (tl.where(inside, softplus_slope(raw), 0.0),)
                        inputs = inputs + (v,)
                        decays = decays + (decay,)
                        decayed = decayed + (tl.where(inside, kept, 0.0),)
                    # Each step loads the rows of the one before it ahead of its own stores, behind
                    # which the compiler cannot move a load.
                    p = places[UNROLL - 1]
                    near = t0 + UNROLL - 1 < count
                    before = row(du_row, p, D, d, in_d & near & (side > 0), ACC)
                    gy = row(gy_row, p, gy_l, d, in_d & near, ACC)
                    Bt = row(B_row, p, B_l, n, in_n & near, ACC)
                    Ct = row(C_row, p, C_l, n, in_n & near, ACC)
                    for j in tl.static_range(UNROLL - 1, -1, -1):
                        p = places[(j + UNROLL - 1) % UNROLL]
                        near = t0 + (j + UNROLL - 1) % UNROLL < count
                        before_next = row(du_row, p, D, d, in_d & near & (side > 0), ACC)
                        gy_next = row(gy_row, p, gy_l, d, in_d & near, ACC)
                        B_next = row(B_row, p, B_l, n, in_n & near, ACC)
                        C_next = row(C_row, p, C_l, n, in_n & near, ACC)

                        inside = t0 + j < count
                        step, v = steps_[j], inputs[j]
                        drive = step * v
                        h_t = decayed[j] + Bt[:, None] * drive[None, :]
                        G = g + Ct[:, None] * gy[None, :]
                        w = G * decayed[j]
                        GB = tl.sum(G * Bt[:, None], 0)
                        dstep = tl.sum(w * a2, 0) * LN2 + GB * v
                        if SOFTPLUS:
                            dstep *= slopes[j]
                        else:
                            dstep = tl.where(inside, dstep, 0.0)
                        dA += w * step[None, :]
                        dshift += dstep
                        at_n = grad_row + places[j].to(tl.int64) * N + n
                        at_d = places[j].to(tl.int64) * D + d
                        tl.store(dB + at_n, tl.sum(G * drive[None, :], 1), mask=in_n & inside)
                        tl.store(dC + at_n, tl.sum(h_t * gy[None, :], 1), mask=in_n & inside)
                        tl.store(du_row + at_d, before + GB * step, mask=in_d & inside)
                        tl.store(ddelta_row + at_d, dstep, mask=in_d & inside)
                        g = decays[j] * G
                        before, gy, Bt, Ct = before_next, gy_next, B_next, C_next
                    back = tl.maximum(groups - 2 - i, 0)
                    h = tl.load(own + back * NP * BD + slot, mask=groups > 1, other=0.0)
                tl.store(state + at * N * D + tile, dA, mask=in_tile)
                tl.store(dbias + at * D + d, dshift, mask=in_d)
