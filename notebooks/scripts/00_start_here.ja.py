# %% [markdown]
# # 00 · ここから始める
#
# [English](00_start_here.ipynb) · 日本語
#
# **gRPC-ML パターンとは何か。1 回の呼び出しはどれだけ速いか。**
#
# あるチームが Python でモデルを学習します。別のチームが、たとえば Go で Web サーバーを書きます。その間に小さな予測サーバーを置きます。
# 表を受け取り、予測を返すサーバーです。サーバーは Python で書きますが、呼び出す側の言語は問いません。
# *gRPC* は呼び出し方の名前です。あるプログラムが、ネットワーク越しに別のプログラムの関数を呼びます。
#
# 元になったのは abap34 さんの記事
# [gRPCを使ったプロセス間通信でGoからいい感じに学習済みモデルを呼び出して推論](https://abap34.com/posts/grpc_ml.html)
# (2023 年)です。記事は「それはどれだけ速いのか」という問いを残して終わります。このノートブックでは、そのようなサーバーを起動し、
# 実際のフライトのデータを送り、1 回の呼び出しを測ります。
#
# このレッスンですること
#
# - 予測サーバーをバックグラウンドで起動し、呼び出す。
# - サーバーの答えが、モデル自身の答えと最後の 1 ビットまで同じことを確かめる。
# - 1 回の呼び出しにかかる時間と、そのうちモデル以外の分を測る。
#
# **必要なもの:** `make lab` がパッケージの導入とモデルの学習を済ませていること。 **所要時間:** 実行に 20 s、読むのに約 20 分。
# **ここまでに作ったもの:** なし。
#
# **中心:** 全部と、練習 1。 **任意:** 「なぜ REST ではなく gRPC か」、練習 2 と 3。

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "scikit-learn", "pandas"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
ROWS = (1, 10, 100, 1_000, 10_000)  # 計る表の大きさ
CALLS = 30  # 大きさごとの呼び出しの回数

# %% [markdown]
# ## サーバーを 1 行で
#
# `serve` は、コマンド `pred-server serve` を独立したプロセスとして、この機械の空いているポートで起動します。そして、サーバーの準備が
# できるまで待ちます。(*ポート* は、機械の中のプログラムを呼び出すための番号です。`serve` は
# `pred_server/tutorial/background.py` にあります。)

# %%
from pred_server import serve

server = serve("flights")
server

# %% [markdown]
# ## フライトの表
#
# モデルは、フライトの到着が何分遅れるかを予測します。使うのは、ゲートを離れる時点でわかっていることだけです。
# 次は、2013 年にニューヨークを出発したフライトのうちの 5 便です。負の遅れは、早く着いたことを表します。

# %% tags=["deterministic"]
import pandas as pd

from pred_server.checkout import FLIGHTS

flights = pd.read_parquet(FLIGHTS)
some = flights.sample(5, random_state=1)
some

# %% [markdown]
# ## 呼び出す
#
# *クライアント* は呼び出す側です。ここで使うクライアントは、表を CSV のテキストにし、1 つのメッセージで送ります。返事は、表と同じ
# インデックスを持つ pandas の Series になります。(記事は CSV を使いました。CSV なら誰でも読めます。もっと速い方法はレッスン 03b にあります。)
# どの呼び出しにも *デッドライン* があります。呼び出し側が待つ最長の時間で、ここでは 10 秒です。

# %%
client = server.client(timeout_s=10, encoding="csv")
table = some.drop(columns="arr_delay")

some.assign(predicted=client.predict(table).round(1))[["carrier", "dest", "dep_delay", "arr_delay", "predicted"]]

# %% [markdown]
# ## 同じモデルか
#
# 表はテキストとして送られ、予測もテキストとして返ってきました。途中で桁は失われなかったでしょうか。それを知るために、このノートブックにも
# モデルを読み込み、10,000 件の予測を 1 ビットずつ比べます。

# %% tags=["deterministic"]
import numpy as np

from pred_server import load

model = load("flights")
many = flights.drop(columns="arr_delay").sample(10_000, random_state=2)
served, in_process = client.predict(many), model.predict(many)
print("equal to the last bit:", np.array_equal(served, in_process))

# %% [markdown]
# 同じでした。クライアントもサーバーも、64 ビットの数を、読み戻すと同じビットになるだけの桁数で書きます。これはこのプロジェクトの約束であり、
# テストが確かめています。
#
# ## 1 回の呼び出しにどれだけかかるか。まず予想する
#
# 1 便から 10,000 便まで、いろいろな大きさの表で呼び出しを計ります。先へ進む前に、予想を書いてください。
# **いちばん大きな表の呼び出しは、1 便の呼び出しの何倍の時間がかかるでしょうか。**

# %%
GUESS_TIMES = None  # あなたの予想(数)

# %% [markdown]
# ## そして測る
#
# どの表も 2 回予測します。gRPC 越しと、*プロセス内*(このノートブックのモデル)です。2 つは交互に行います。機械が遅くなる瞬間があっても、
# 両方に当たるようにするためです。最初の数回は暖機で、数えません。
#
# 返事には、もう 1 つ数が付いてきます。サーバーのモデルが計算した時間です。呼び出しの時間からこれを引きます。残りが **ホップ** です。
# 表を書き、送り、読む時間と、その帰り道です。モデルを別のプロセスに置くことの値段です。(`waterfall` が 1 回の呼び出しの時間を
# 持っています。説明はレッスン 03b にあります。)

# %%
import time

from tqdm.auto import tqdm


def timed(predict, batch):
    """1 回予測し、予測とかかった時間(ミリ秒)を返す。"""
    start_ns = time.perf_counter_ns()
    predictions = predict(batch)
    return predictions, (time.perf_counter_ns() - start_ns) / 1e6


calls = []
for rows in tqdm(ROWS, desc="sizes"):
    batch = many.head(rows)
    for call in range(-3, CALLS):
        predictions, served_ms = timed(client.predict, batch)
        _, in_process_ms = timed(model.predict, batch)
        hop_ms = served_ms - predictions.waterfall.phases_ms["predict"]
        if call >= 0:  # 最初の 3 回は暖機
            calls.append({"rows": rows, "over gRPC": served_ms, "hop": hop_ms, "in process": in_process_ms})

by_rows = pd.DataFrame(calls).groupby("rows")
medians = by_rows.median()
medians.round(2)

# %% [markdown]
# 表の値は *中央値* で、単位はミリ秒です。呼び出しの半分は中央値より速く、半分は遅い。中央値の別名は p50 です。同じように、10 回のうち 9 回は
# p90 より速い呼び出しです。

# %%
from IPython.display import Markdown

one, large = medians.iloc[0], medians.iloc[-1]
most_rows = medians.index[-1]
times = large["over gRPC"] / one["over gRPC"]
Markdown(
    f"- 1 便では、**ホップは {one['hop']:.1f} ms** です。{one['over gRPC']:.1f} ms の残りは"
    "予測そのものです。\n"
    f"- {most_rows:,} 便の呼び出しは、1 便の呼び出しの **{times:.0f} 倍**の時間がかかりました。"
    f"あなたの予想: {GUESS_TIMES or 'まだありません'}。"
)

# %% [markdown]
# なぜ「over gRPC」引く「in process」ではなく、呼び出しそのものからホップを読むのでしょうか。ノートブックとサーバーは 2 つのプロセスで、
# この機械のコアを分け合っています。忙しい機械では、どちらかが遅くなることがあります。すると 2 つの列の差は、どちらの向きにもホップから
# ずれます。README の表は、プロセスごとにコアを与えた、より静かな計測から来ています。注意深い測り方は
# [レッスン 05](05_how_fast_is_it.ipynb)(英語)にあります。
#
# 同じ数を図にします。描くのは `lines`(`pred_server/lab/lesson_figures.py`)です。`show` は、図が見えない読者のための説明を付けます。

# %%
from pred_server.lab.figures import show
from pred_server.lab.lesson_figures import lines

ways = ["over gRPC", "in process"]
middle_to_slow = {way: pd.DataFrame({"p50": medians[way], "p90": by_rows[way].quantile(0.9)}) for way in ways}
finding = f"{most_rows:,} times the rows cost {times:.0f} times the time"

figure = lines(
    medians[ways], finding, "rows in one call", "latency (ms)",
    bands=middle_to_slow, band_label="from p50 to p90", grey=["in process"], log=True,
)  # fmt: skip
show(figure, f"Latency against rows, both axes logarithmic, over gRPC and in process. {finding}.")

# %%
price = 1_000 * medians["over gRPC"] / medians.index  # マイクロ秒
Markdown(
    f"- {most_rows:,} 行を 1 回で送ると、1 便は {price.iloc[-1]:,.1f} µs です。1 便だけで送ると "
    f"{price.iloc[0]:,.0f} µs、**{price.iloc[0] / price.iloc[-1]:,.0f} 倍**です。\n"
    f"- いちばん大きな呼び出しでは、時間の {1 - large['hop'] / large['over gRPC']:.0%} がモデルの計算です。"
)

# %% [markdown]
# 呼び出しには、何を運んでも決まった値段があります。だから、1 回の呼び出しに多くの行を入れます。大きな表では、ホップのほとんどはテキストの
# 値段です。両側がそれぞれ 1 回書き、1 回読むからです。1 回の呼び出しの分解は [03b](03b_under_the_hood.ipynb) にあります。
#
# ## なぜ REST ではなく gRPC か(任意)
#
# *REST* は Web API の普通の形です。HTTP のリクエストと JSON を使います。契約は自分で書き、全員が守るように自分で気を配ります。
# gRPC は契約から始まります。1 つのファイルから、十いくつの言語で、両側のコードを生成します。どの呼び出しもデッドラインを運び、取り消しもでき、
# 両側がそれを余分なコードなしに知ります。多くの呼び出しが 1 つの接続を同時に使い、接続は開いたままです。(HTTP/2 の接続です。)
#
# ブラウザには、今も REST が正しい選択です。そのために Go のゲートウェイがあります([04](04_call_it_from_go.ipynb))。
#
# ## レッスン
#
# | レッスン(英語) | 問い |
# |---|---|
# | [01 Train a model](01_train_a_model.ipynb) | 過去のフライトから、安全に配信できるモデルファイルまで、どう進むか |
# | [02 Write the contract](02_write_the_contract.ipynb) | クライアントとサーバーは何を取り決めるか。その取り決めはどう変えてよいか |
# | [03 Serve and call](03_serve_and_call.ipynb) | サーバーには何が必要か。実際に使うには、さらに何が必要か |
# | [03b Under the hood](03b_under_the_hood.ipynb) | 両者の間を何が流れるか。1 回の呼び出しの時間はどこへ行くか |
# | [03c Streams](03c_streams.ipynb) | どんな長さの表も流すにはどうするか。満杯のサーバー、止まるサーバーは何と答えるか |
# | [04 Call it from Go](04_call_it_from_go.ipynb) | Go の Web サーバーは Python のモデルにどう尋ねるか。1 段増えると何を払うか |
# | [05 How fast is it?](05_how_fast_is_it.ipynb) | 1 行から 100 万行まで、1 回の呼び出しはいくらか。エンコーディングで何が変わるか |
# | [06 Under load](06_under_load.ipynb) | 多くの呼び出しが同時に来ると何が起きるか。1 プロセスはどこまで耐えるか |
# | [07 Make it fast](07_make_it_fast.ipynb) | 記事のサーバーからここまで、どの変更がどれだけ効いたか |
# | [08 Break it](08_break_it.ipynb) | サーバーが死ぬ、固まる、満杯になる、攻撃されるとき、呼び出し側に何が見えるか。ほかの呼び出し側は気づくか |
# | [09 Which way?](09_which_way.ipynb) | gRPC、REST、それとも Go プロセスの中でモデルを動かすか。そもそもサーバーを作るべきか |
# | [10 Scale out](10_scale_out.ipynb) | 1 プロセスで足りなくなったら、増やして何が得られるか。重ねる層ごとに何を払うか |
# | [Explorer](explorer.ipynb) | モデル、エンコーディング、行数、負荷を自分で選ぶと、1 回の呼び出しはいくらか |
#
# [README.md](README.md)(英語)に、実行時間、用語集、ステータスコード、困ったときの助けがあります。
#
# ## わかったこと

# %%
Markdown(
    f"- 1 便は gRPC 越しに **{one['over gRPC']:.1f} ms**。そのうちホップは {one['hop']:.1f} ms "
    f"(この機械での {CALLS} 回の中央値)。\n"
    f"- {most_rows:,} 便は 1 回の呼び出しで **{large['over gRPC']:.0f} ms**、1 便あたり {price.iloc[-1]:,.1f} µs。\n"
    "- 予測は、プロセス内のモデルの予測と最後の 1 ビットまで同じ。"
)

# %% [markdown]
# ## 練習
#
# **1.** 同僚の表は、1 つのメッセージには大きすぎます。何回かの呼び出しに分けて予測する関数を書いてください。関数の最後の行を書き換え、
# このセルと次のセルを実行します。次のセルが答えを確かめます。


# %%
def predict_in_batches(client, table, rows):
    """`table` を 1 回に最大 `rows` 行の呼び出しで予測し、表のインデックスを持つ Series を 1 つ返す。"""
    return None  # ここに書く


# %% tags=["deterministic"]
class CountingClient:
    """呼び出しごとの行数を数え、本物のクライアントに尋ねる。"""

    def __init__(self):
        self.rows_of_calls = []

    def predict(self, batch):
        self.rows_of_calls.append(len(batch))
        return client.predict(batch)


counting = CountingClient()
answer = predict_in_batches(counting, many.head(1_000), 300)
if answer is None:
    print("練習 1: まだ答えがありません")
else:
    sent = counting.rows_of_calls
    assert sent, "関数に渡された `client` の `predict` を呼んでください"
    assert max(sent) <= 300, f"1 回は 300 行までです。あなたの呼び出しは {sent} 行でした"
    assert sum(sent) == 1_000, f"1,000 行をちょうど 1 回ずつ送ってください。あなたは {sum(sent):,} 行でした: {sent}"
    assert isinstance(answer, pd.Series), f"pandas の Series を返してください({type(answer).__name__} ではなく)"
    assert answer.index.equals(many.index[:1_000]), "Series のインデックスが表のインデックスと違います"
    assert np.array_equal(answer, served[:1_000]), "予測が 1 回の呼び出しの予測と違います"
    print(f"練習 1: 正解。{len(sent)} 回、行数 {sent}")

# %% [markdown]
# <details><summary>答え</summary>
#
# ```python
# def predict_in_batches(client, table, rows):
#     parts = [client.predict(table.iloc[start : start + rows]) for start in range(0, len(table), rows)]
#     return pd.concat(parts)
# ```
#
# 返事の各部分は、表のその部分のインデックスを持っています。だから `pd.concat` に `ignore_index` はいりませんし、付けてはいけません。
# この関数が必要になることはめったにありません。クライアントは大きな表を *ストリーム* として送り、1 回の呼び出しの中で同じことをします
# ([03c](03c_streams.ipynb))。
#
# </details>
#
# **2.(任意)** 列 `dest` のない表と、列が 1 つ余分な表を送ってください。クライアントはそれぞれ何と言いますか。
#
# **3.(任意)** 自分のクライアントを作ってください: `from pred_server import Client; mine = Client(server.address)`。
# `server.close()` でサーバーを止めてから `mine.predict(table)` を呼びます。どのエラーが、どれくらいで来ますか。
#
# <details><summary>答え</summary>
#
# 2. `client.predict(table.drop(columns="dest"))` は `InvalidInput` を送出します。メッセージには、足りない列と、表にある列の名前が出ます。
#    `client.predict(table.assign(tail="N123"))` は予測を返し、`tail` を無視したと警告します。
# 3. 数秒後に `Unavailable` です。そのポートで待っているプログラムはもうありません。サーバーが再起動の途中かもしれないので、クライアントは
#    間隔を延ばしながら何度か試します。`Client(server.address, retry=False)` はすぐにあきらめます。
#    (`client` は `server.client()` から来たので、`server.close()` と一緒に閉じます。続けるにはノートブックを再起動してください。)
#
# </details>
#
# ## 閉じる
#
# サーバーは、ノートブックのカーネルが終わると終わります。それでも、自分で閉じるのがよい習慣です。

# %%
server.close()
server

# %% [markdown]
# 次は [01 Train a model](01_train_a_model.ipynb)(英語)。
