"""Catch: the game against its rules played out in numpy, the loss against sums, and what the player learns."""

import jax
import numpy as np
import pytest

import objnet
from tests.examples.scripts import load

catch = load("rl_catch")


def play_in_numpy(ball, actions):
    """Boards and rewards of bsuite's game, whose paddle starts in the middle."""
    paddle, boards, rewards = 2, [], []
    for row, action in enumerate(actions):
        board = np.zeros((10, 5), np.float32)
        board[row, ball] = board[9, paddle] = 1
        boards.append(board)
        paddle = min(4, max(0, paddle + action - 1))
        rewards.append((1 if paddle == ball else -1) if row == 8 else 0)
    return np.array(boards), np.array(rewards, np.float32)


@pytest.fixture(scope="module")
def played():
    """A model, and what it played in two calls of one program."""
    objnet.manual_seed(3)
    model = catch.ActorCritic(4)
    play = objnet.jit(lambda: catch.play(model, 200))
    return model, play(), play()


def test_the_game_follows_its_rules(played):
    boards, actions, rewards = map(np.asarray, played[1])
    assert boards.shape == (9, 200, 10, 5) and actions.shape == rewards.shape == (9, 200)
    for game in range(200):
        expected = play_in_numpy(boards[0, game, 0].argmax(), actions[:, game])
        np.testing.assert_array_equal(boards[:, game], expected[0])
        np.testing.assert_array_equal(rewards[:, game], expected[1])
    assert np.bincount(boards[0, :, 0].argmax(axis=1)).min() > 20  # every column
    assert np.bincount(actions.ravel(), minlength=3).min() > 100 and set(rewards[-1]) == {1, -1}
    assert (played[2][1] != actions).mean() > 0.3


def test_the_loss_is_the_mean_of_its_three_parts(played):
    model = played[0]
    boards, actions, rewards = jax.tree.map(lambda a: a[:, :5], played[1])
    scores, values = map(np.asarray, model(boards))
    p = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    total = 0.0
    for t in range(9):
        for n in range(5):
            outcome = float(rewards[-1, n])  # the only reward, and undiscounted
            total += 0.5 * (outcome - values[t, n]) ** 2
            total -= (outcome - values[t, n]) * np.log(p[t, n, int(actions[t, n])])
            total += 0.1 * (p[t, n] * np.log(p[t, n])).sum()
    loss = catch.actor_critic_loss(model, boards, actions, rewards, 0.1)
    np.testing.assert_allclose(loss, total / 45, rtol=1e-5)


@pytest.mark.slow
def test_the_critic_gets_no_gradient_from_the_policy(played):
    model, episode, _ = played

    def critic_gradient(entropy_cost):
        model.zero_grad()
        objnet.backward(lambda: catch.actor_critic_loss(model, *episode, entropy_cost))
        return model.critic.bias.grad

    values, returns = model(episode[0])[1], episode[2][-1]
    np.testing.assert_allclose(critic_gradient(0.0), [np.mean(values - returns)], rtol=1e-4)
    np.testing.assert_allclose(critic_gradient(0.5), critic_gradient(0.0), rtol=1e-5)


def test_it_learns(capsys):
    rate = catch.main(["--episodes", "12000", "--lr", "4e-3"])
    first = capsys.readouterr().out.splitlines()[0]
    assert float(first.split(": ")[1].split("%")[0]) < 40  # a fifth by chance
    assert rate > 0.85
