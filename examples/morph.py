from segue import Interpolator

segue = Interpolator.from_pretrained()  # the embedded model: no network, no GPU
morph = segue("examples/cat.png", "examples/tiger.png", num_frames=17, seed=0)
morph.save("morph.mp4")
