from segue import Interpolator

interpolator = Interpolator.from_pretrained()  # the embedded model: no network, no GPU
morph = interpolator("examples/cat.png", "examples/tiger.png", num_frames=17, seed=0)
morph.save("morph.mp4")
