"""Pictures of a generator: contact sheets, walks, interpolations, stylized images."""

from genaug._common.plotting import image_grid as image_grid
from genaug._common.plotting import save_sheet as save_sheet
