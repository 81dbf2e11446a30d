"""How often 4 x 4 doubles."""

import pytest

from lightning_avatars.networks.layers.stages import doublings


def test_doublings_lead_from_4_to_the_resolution():
    for count in range(9):
        assert doublings(4 * 2**count, 4, 1024) == count


@pytest.mark.parametrize("resolution", [0, -8, 12, 63, 8, 512])
def test_other_resolutions_name_the_range_and_the_setting(resolution):
    with pytest.raises(ValueError, match=f"power of two from 16 to 256, got {resolution}: set data.resolution"):
        doublings(resolution, 16, 256)
