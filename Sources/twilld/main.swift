print("twilld")
