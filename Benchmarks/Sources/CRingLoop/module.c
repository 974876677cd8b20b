#include "CRingLoop.h"
