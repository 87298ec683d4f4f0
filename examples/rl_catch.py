"""Catch, a small game of the behaviour suite (bsuite), learnt by an advantage actor-critic.

    python examples/rl_catch.py           # 40,000 games, some ten seconds on two cores: over 99 % of the balls caught

A ball falls from a random column of a board of 10 rows and 5 columns; a paddle in the lowest row moves left, stays, or
moves right. Reward comes once, at the end: 1 for a caught ball, -1 for a missed one. The game is pure JAX: a batch of
games is a vmap of one, and an episode an ``objnet.scan`` over its nine moves, which reads the live network and draws from
the key stream. Playing, learning and the optimizer's step are one compiled program.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

import objnet
import objnet.nn.functional as F
from objnet import nn, optim

ROWS, COLUMNS = 10, 5
MOVES = ROWS - 1  # until the ball is in the paddle's row


# -- the game ----------------------------------------------------------------------------------------------------------


class Game(NamedTuple):
    """Where things are, as whole numbers; the paddle is always in the lowest row."""

    ball_row: jax.Array
    ball: jax.Array
    paddle: jax.Array


def reset(key: jax.Array) -> Game:
    return Game(jnp.int32(0), jax.random.randint(key, (), 0, COLUMNS), jnp.int32(COLUMNS // 2))


def step(game: Game, action: jax.Array) -> tuple[Game, jax.Array]:
    """The game after an action (0 left, 1 stay, 2 right), and the reward."""
    game = Game(game.ball_row + 1, game.ball, jnp.clip(game.paddle + action - 1, 0, COLUMNS - 1))
    caught = jnp.where(game.ball == game.paddle, 1.0, -1.0)
    return game, jnp.where(game.ball_row == ROWS - 1, caught, 0.0)


def observe(game: Game) -> jax.Array:
    """The board (10, 5): 1 at ball and paddle."""
    return jnp.zeros((ROWS, COLUMNS)).at[game.ball_row, game.ball].set(1.0).at[ROWS - 1, game.paddle].set(1.0)


# -- the player --------------------------------------------------------------------------------------------------------


class ActorCritic(nn.Module):
    """Boards (*, 10, 5) to scores of the three actions (*, 3) and the reward to expect (*,)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(-2), nn.Linear(ROWS * COLUMNS, hidden), nn.ReLU())
        self.actor = nn.Linear(hidden, 3)
        self.critic = nn.Linear(hidden, 1)

    def forward(self, boards: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = self.body(boards)
        return self.actor(x), self.critic(x).squeeze(-1)


def play(model: nn.Module, games: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Boards (9, games, 10, 5), actions (9, games) drawn from the model, and rewards (9, games) of whole episodes."""

    def move(state: Game, _: None) -> tuple[Game, tuple[jax.Array, jax.Array, jax.Array]]:
        boards = jax.vmap(observe)(state)
        actions = jax.random.categorical(objnet.next_rng_key(), model(boards)[0])
        state, rewards = jax.vmap(step)(state, actions)
        return state, (boards, actions, rewards)

    start = jax.vmap(reset)(jax.random.split(objnet.next_rng_key(), games))
    return objnet.scan(move, start, length=MOVES)[1]


def actor_critic_loss(
    model: nn.Module, boards: jax.Array, actions: jax.Array, rewards: jax.Array, entropy_cost: float
) -> jax.Array:
    scores, values = model(boards)
    returns = jnp.cumsum(rewards[::-1], axis=0)[::-1]
    advantages = jax.lax.stop_gradient(returns - values)
    log_probs = F.log_softmax(scores, dim=-1)
    chosen = jnp.take_along_axis(log_probs, actions[..., None], axis=-1).squeeze(-1)
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
    return jnp.mean(0.5 * (returns - values) ** 2 - advantages * chosen - entropy_cost * entropy)


# -- training ----------------------------------------------------------------------------------------------------------


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Learn to play Catch.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--episodes", type=int, default=40_000, help="games to learn from")
    add("--games", type=int, default=32, help="games played side by side in a training step")
    add("--hidden", type=int, default=64, help="units of the hidden layer")
    add("--lr", type=float, default=2e-3, help="learning rate of Adam")
    add("--entropy", type=float, default=0.01, help="weight of the policy's entropy")
    add("--seed", type=int, default=0, help="seed of weights and games")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> float:
    """Train, and give the part of 1,000 new balls that the player catches."""
    args = parse_args(argv)
    objnet.manual_seed(args.seed)
    model = ActorCritic(args.hidden)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)

    @objnet.jit
    def train_step() -> jax.Array:
        episodes = play(model, args.games)
        optimizer.step(lambda: actor_critic_loss(model, *episodes, args.entropy))
        return jnp.mean(episodes[-1][-1] > 0)

    @objnet.jit
    def test() -> jax.Array:
        return jnp.mean(play(model, 1000)[-1][-1] > 0)

    start = time.perf_counter()
    caught = []
    steps = max(1, args.episodes // args.games)
    for i in range(1, steps + 1):
        caught.append(train_step())
        if i % max(1, steps // 20) == 0:
            rate = float(jnp.stack(caught).mean())
            caught.clear()
            print(f"{i * args.games:6d} games in {time.perf_counter() - start:4.1f} s: {rate:.1%} caught", flush=True)
    rate = float(test())
    print(f"{rate:.1%} of 1,000 new balls caught")
    return rate


if __name__ == "__main__":
    main()
