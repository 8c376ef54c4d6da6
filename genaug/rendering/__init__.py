"""Write datasets of generated images to disk, by many processes; resume, verify, repair and publish them."""

from genaug.rendering.shards import encoded_image as encoded_image
from genaug.rendering.writing import Rendered as Rendered
from genaug.rendering.writing import render as render
from genaug.rendering.writing import repair as repair
from genaug.rendering.writing import verify as verify
