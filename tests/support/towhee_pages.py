"""The code of the published operator pages, word for word. `./teddy.jpg` is a picture in the current folder."""

TEXT = "A teddybear on a skateboard in Times Square."

# Towhee 0.9.0. The same chain with `.to_list()` instead of `.show()` gives a page's vectors.
CHAINS = {
    "image": """\
towhee.glob('./teddy.jpg') \\
      .image_decode() \\
      .image_text_embedding.blip(model_name='blip_base', modality='image') \\
      .show()""",
    "text": """\
towhee.dc(["A teddybear on a skateboard in Times Square."]) \\
      .image_text_embedding.blip(model_name='blip_base', modality='text') \\
      .show()""",
    "named image": """\
towhee.glob['path']('./teddy.jpg') \\
      .image_decode['path', 'img']() \\
      .image_text_embedding.blip['img', 'vec'](model_name='blip_base', modality='image') \\
      .select['img', 'vec']() \\
      .show()""",
    "named text": """\
towhee.dc['text'](["A teddybear on a skateboard in Times Square."]) \\
      .image_text_embedding.blip['text','vec'](model_name='blip_base', modality='text') \\
      .select['text', 'vec']() \\
      .show()""",
}

# Towhee 0.9.0 imports `pipe, ops, DataCollection` from towhee.dc2, 1.x from towhee.
PIPES = """\
img_pipe = (
    pipe.input('url')
    .map('url', 'img', ops.image_decode.cv2_rgb())
    .map('img', 'vec', ops.image_text_embedding.{family}(model_name='{model}', modality='image'))
    .output('img', 'vec')
)

text_pipe = (
    pipe.input('text')
    .map('text', 'vec', ops.image_text_embedding.{family}(model_name='{model}', modality='text'))
    .output('text', 'vec')
)

DataCollection(img_pipe('./teddy.jpg')).show()
DataCollection(text_pipe('A teddybear on a skateboard in Times Square.')).show()
"""
MODELS = {"albef": "albef_4m", "blip": "blip_base"}
