import pytest
import torch

from lorweb_core.training.progress import describe_end, describe_progress, describe_time, progress_picture
from lorweb_core.training.trainer import Step


def steps(count: int, seconds: float = 2.0) -> list[Step]:
    return [
        Step(number, loss=1 / number, learning_rate=1e-3, gradient=1.0, seconds=seconds)
        for number in (range(1, count + 1))
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (8.4, "8 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3600, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_a_time_is_said_in_its_two_largest_units(seconds, said):
    assert describe_time(seconds) == said


def test_the_words_have_the_step_the_recent_loss_and_the_time_left():
    recent = sum(1 / number for number in range(11, 21)) / 10  # the mean is over ten steps at the least
    assert describe_progress(steps(20), 1_000) == (
        f"Training: step 20 of 1,000\nloss {recent:.4f}, about 32 min 40 s left"
    )
    assert describe_end(steps(20), "x.safetensors") == f"Trained: 20 steps, loss {recent:.4f}\nSaved as x.safetensors"


def test_one_slow_step_does_not_change_the_time_left():
    slow = [*steps(20)[:-1], steps(20, seconds=500.0)[-1]]
    assert describe_progress(slow, 30).endswith("about 20 s left")


def test_the_picture_has_the_samples_above_the_curve():
    curve = progress_picture(steps(20), [])
    narrow, wide = torch.full((30, 100, 3), 0.5), torch.full((40, 2 * curve.shape[1], 3), 0.25)
    picture = progress_picture(steps(20), [narrow, wide])
    assert picture.shape == (30 + 20 + curve.shape[0], curve.shape[1], 3)
    left = (curve.shape[1] - 100) // 2
    torch.testing.assert_close(picture[:30, left : left + 100], narrow)
    assert (picture[:30, :left] == curve[0, 0]).all()
    torch.testing.assert_close(picture[30:50], torch.full((20, curve.shape[1], 3), 0.25))
    assert torch.equal(picture[50:], curve)
